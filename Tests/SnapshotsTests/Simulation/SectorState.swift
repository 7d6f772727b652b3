import BlockIO
import BlockIOTesting

/// What a sector of a device may hold.
struct SectorState: Sendable {
  /// What a read may give: one version, and those of writes that are under way or have failed.
  var current: [Version]
  /// What it may hold after a loss of power.
  var durable: [Version]
  /// Writes under way.
  var inFlight = 0
  /// Counts what has happened to it.
  var changes = 0

  init(_ version: Version) {
    current = [version]
    durable = [version]
  }
}

/// What a snapshot shows of a sector of which it has nothing written: the origin at its point in
/// time. Several versions while nobody has looked which of the writes under way at that time came
/// before it.
struct BaseState: Sendable {
  var current: [Version]
  /// After a loss of power, what the origin falls back to as long as the sector isn't copied.
  var durable: [Version]
}

/// The origin or a snapshot as the model has it.
struct DeviceModel: Sendable {
  var sectors: [SectorState]
  /// Empty for the origin.
  var base: [BaseState] = []
  /// Whether it is a snapshot that has had its point in time.
  var isActive = false
  /// The size of a chunk, in sectors.
  var chunk: Int = 1
  /// Chunks that are sure to have an exception.
  var exceptions = Set<Int>()

  init(count: Sector, _ version: Version) {
    sectors = [SectorState](repeating: SectorState(version), count: Int(count.rawValue))
  }

  var count: Int { sectors.count }

  /// What a read of a sector may give.
  func current(_ sector: Int) -> [Version] {
    let own = sectors[sector].current
    if own.count == 1 { return own[0] == .base ? base[sector].current : own }
    return own.contains(.base) ? own.filter { $0 != .base } + base[sector].current : own
  }

  /// What a sector may hold after a loss of power.
  func durable(_ sector: Int) -> [Version] {
    let own = sectors[sector].durable
    return own.contains(.base) ? own.filter { $0 != .base } + base[sector].durable : own
  }

  /// It was seen that a sector holds `version`; nothing else was going on.
  mutating func settle(_ sector: Int, _ version: Version, isDurable: Bool) {
    var state = sectors[sector]
    if !state.current.contains(version), !base.isEmpty {
      base[sector].current = [version]
      // Nothing later than its point in time can show up.
      base[sector].durable.removeAll { $0 > version }
      if isDurable { base[sector].durable = [version] }
      state.current = [.base]
    } else {
      state.current = [version]
    }
    if isDurable { state.durable = state.current }
    sectors[sector] = state
  }

  /// Takes note that the chunks of `range` are copied.
  mutating func noteExceptions(_ range: Range<Int>) {
    guard !range.isEmpty else { return }
    exceptions.formUnion(range.lowerBound / chunk...(range.upperBound - 1) / chunk)
  }
}

extension Array<Version> {
  mutating func add(_ version: Version) {
    if !contains(version) { append(version) }
  }
}

extension Range<Sector> {
  /// As indices.
  var indices: Range<Int> { Int(lowerBound.rawValue)..<Int(upperBound.rawValue) }
}

extension Version {
  /// Stands for what a snapshot shows where nothing of its own was written: its point in time.
  static let base = Version(rawValue: .max)

  /// What nobody has ever written: zeros.
  static let blank = Version(rawValue: 0)
}
