import BlockIO
import BlockIOTesting
import DeviceMapperTesting

/// What a mirror may show, sector by sector, given everything that was asked of it and answered so
/// far.
struct MirrorModel: Sendable {
  struct SectorState: Sendable {
    /// The last write that was acknowledged, and those since that are under way or have failed.
    var current: [Version] = [.initial]
    /// What may be left of them after a loss of power.
    var durable: [Version] = [.initial]
  }

  private var sectors: [SectorState]
  /// The sectors of each version.
  private var ranges: [Range<Int>] = [0..<0, 0..<0]
  /// Discards: these sectors hold anything, on each leg something else.
  private var discards = Set<Version>()
  /// Counts the losses of power; what was begun before says nothing any more.
  private var epoch = 0

  init(count: Sector) {
    sectors = [SectorState](repeating: SectorState(), count: Int(count.rawValue))
  }

  private var last: UInt32 { UInt32(ranges.count) - 1 }

  // MARK: Writing

  /// A write begins; its data are of the version returned.
  mutating func begin(_ range: Range<Int>, isDiscard: Bool = false) -> Version {
    let version = Version(rawValue: last + 1)
    ranges.append(range)
    if isDiscard { discards.insert(version) }
    for sector in range {
      sectors[sector].current.append(version)
      sectors[sector].durable.append(version)
    }
    return version
  }

  /// It was acknowledged; `isDurable` if it was to be so by itself.
  mutating func end(_ version: Version, isDurable: Bool = false) {
    for sector in ranges[Int(version.rawValue)] {
      sectors[sector].current = [version]
      if isDurable { sectors[sector].durable = [version] }
    }
  }

  // MARK: Flushing

  struct Flush: Sendable {
    fileprivate let last: UInt32
    fileprivate let epoch: Int
    fileprivate let before: [SectorState]
  }

  func beginFlush() -> Flush { Flush(last: last, epoch: epoch, before: sectors) }

  /// What was there when the flush began, or was begun since, is all that can be left.
  mutating func endFlush(_ flush: Flush) {
    guard flush.epoch == epoch else { return }
    for sector in sectors.indices where sectors[sector].durable.count > 1 {
      let before = flush.before[sector].current
      sectors[sector].durable.removeAll { !before.contains($0) && $0.rawValue <= flush.last }
    }
  }

  // MARK: Reading

  struct Read: Sendable {
    fileprivate let last: UInt32
    fileprivate let epoch: Int
    fileprivate let sectors: Range<Int>
    fileprivate let before: [SectorState]
  }

  func beginRead(_ range: Range<Int>) -> Read {
    Read(last: last, epoch: epoch, sectors: range, before: Array(sectors[range]))
  }

  /// Checks what was read: what was there before, or is from a write begun meanwhile.
  func endRead(_ read: Read, _ bytes: [UInt8]) throws(CheckFailure) {
    guard read.epoch == epoch else { return }
    let contents = Content.of(bytes, from: Sector(UInt64(read.sectors.lowerBound)))
    var index = 0
    while index < contents.count {
      let content = contents[index]
      let allowed = read.before[index].current
      let sector = read.sectors.lowerBound + index
      if !matches(content, allowed), !isNewer(content, than: read.last, sector) {
        throw CheckFailure(
          "a read of sector \(sector) gives \(content); allowed \(allowed), now"
            + " \(sectors[sector].current)")
      }
      index += 1
    }
  }

  private func matches(_ content: Content, _ versions: [Version]) -> Bool {
    versions.contains { content == .version($0) || discards.contains($0) }
  }

  private func isNewer(_ content: Content, than last: UInt32, _ sector: Int) -> Bool {
    if case .version(let version) = content, version.rawValue > last,
      version.rawValue <= self.last
    {
      return ranges[Int(version.rawValue)].contains(sector)
    }
    return discards.contains { $0.rawValue > last && ranges[Int($0.rawValue)].contains(sector) }
  }

  // MARK: Between two phases

  /// The power has gone. Nothing is under way any more.
  mutating func crash() {
    epoch += 1
    for sector in sectors.indices { sectors[sector].current = sectors[sector].durable }
  }

  /// Whether legs may hold something different there: it was given up.
  func mayDiffer(_ sector: Int) -> Bool {
    sectors[sector].current.contains { discards.contains($0) }
  }

  /// Whether that was ever so.
  func wasGivenUp(_ sector: Int) -> Bool {
    discards.contains { ranges[Int($0.rawValue)].contains(sector) }
  }

  /// Checks what all legs hold while nothing is under way, and takes it for what there is from now
  /// on.
  mutating func settle(_ bytes: [UInt8]) throws(CheckFailure) {
    let contents = Content.of(bytes, from: .zero)
    for (sector, content) in contents.enumerated() where !mayDiffer(sector) {
      let allowed = sectors[sector].current
      guard case .version(let version) = content, allowed.contains(version) else {
        throw CheckFailure("the legs hold \(content) in sector \(sector); allowed \(allowed)")
      }
      sectors[sector].current = [version]
    }
  }
}

extension Range<Sector> {
  /// As indices.
  var indices: Range<Int> { Int(lowerBound.rawValue)..<Int(upperBound.rawValue) }
}
