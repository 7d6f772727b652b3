import BlockIO
import BlockIOTesting
import DeviceMapperTesting

/// What origin and snapshots may show, sector by sector, given everything that was asked of them
/// and answered so far. Device 0 is the origin, 1 the first snapshot.
struct SnapshotModel: Sendable {
  private struct Write: Sendable {
    let device: Int
    let sectors: Range<Int>
    /// The snapshots that must have their copies before it is done.
    let followers: [Int]
    /// Whether it may be from before or after the beginning of a merge, which hides the former.
    var isAmbiguous: Bool
  }

  var devices: [DeviceModel]
  /// Whether what is seen as origin is a merge.
  var isMerging = false
  private var writes: [Version: Write] = [:]
  private var lastVersion = Version.initial.rawValue
  /// Counts the moments at which everything changes; what was begun before says nothing any more.
  private var epoch = 0
  /// Versions that are zeros on the disk.
  private var zeroes: Set<Version> = [.blank]
  /// Versions that are anything on the disk.
  private var anything = Set<Version>()
  /// Discards under way that are passed down to the origin.
  private var passedDown: [Version: Range<Int>] = [:]
  /// While a merge is being begun, the origin writes of the time, discards among them.
  private var ambiguous: [(version: Version, sectors: Range<Int>)]?

  init(originCount: Sector, hole: Range<Int>, snapshots: [(count: Sector, chunk: Sector)]) {
    devices = [DeviceModel(count: originCount, .initial)]
    for sector in hole { devices[0].sectors[sector] = SectorState(.blank) }
    for snapshot in snapshots {
      var device = DeviceModel(count: snapshot.count, .base)
      device.chunk = Int(snapshot.chunk.rawValue)
      devices.append(device)
    }
  }

  // MARK: Writing

  private mutating func nextVersion() -> Version {
    lastVersion += 1
    return Version(rawValue: lastVersion)
  }

  /// A write begins; its data are of the version returned.
  mutating func beginWrite(_ device: Int, _ sectors: Range<Int>) -> Version {
    let version = nextVersion()
    let followers =
      device == 0 && !isMerging ? devices.indices.filter { devices[$0].isActive } : []
    writes[version] = Write(
      device: device, sectors: sectors, followers: followers,
      isAmbiguous: device == 0 && ambiguous != nil)
    if device == 0 { ambiguous?.append((version, sectors)) }
    for sector in sectors { begin(version, device, sector) }
    return version
  }

  private mutating func begin(_ version: Version, _ device: Int, _ sector: Int) {
    devices[device].sectors[sector].current.add(version)
    devices[device].sectors[sector].durable.add(version)
    devices[device].sectors[sector].inFlight += 1
    devices[device].sectors[sector].changes += 1
  }

  /// It has ended; `isDurable` if it was to be so by itself.
  mutating func endWrite(_ version: Version, isDone: Bool, isDurable: Bool) {
    guard let write = writes.removeValue(forKey: version) else { return }
    for sector in write.sectors {
      devices[write.device].sectors[sector].inFlight -= 1
      devices[write.device].sectors[sector].changes += 1
      guard isDone, !write.isAmbiguous else { continue }
      devices[write.device].sectors[sector].current = [version]
      if isDurable { devices[write.device].sectors[sector].durable = [version] }
    }
    guard isDone else { return }
    if write.device > 0 { devices[write.device].noteExceptions(write.sectors) }
    guard !isMerging else { return }
    for follower in write.followers where devices[follower].isActive {
      let common = write.sectors.clamped(to: 0..<devices[follower].count)
      for sector in common {
        devices[follower].base[sector].durable = devices[follower].base[sector].current
      }
      devices[follower].noteExceptions(common)
    }
  }

  // MARK: Discarding

  /// What a discard does.
  struct Discard: Sendable {
    /// Whole chunks become zeros, parts of chunks anything, where there is an exception.
    fileprivate let zeroes: (version: Version, sectors: Range<Int>)
    fileprivate let others: (version: Version, sectors: [Range<Int>])
    /// The origin and those who may read from it there, by device: any of these sectors are
    /// anything.
    fileprivate var passedDown: (version: Version, sectors: [(device: Int, sector: Int)])?
    fileprivate let device: Int
    fileprivate let exceptions: Set<Int>
  }

  mutating func beginDiscard(
    _ device: Int, _ sectors: Range<Int>, isPassedDown: Bool
  ) -> Discard {
    let chunk = devices[device].chunk
    let first = (sectors.lowerBound + chunk - 1) / chunk * chunk
    let last = sectors.upperBound / chunk * chunk
    let whole = first < last ? first..<last : sectors.lowerBound..<sectors.lowerBound
    let others = [sectors.lowerBound..<whole.lowerBound, whole.upperBound..<sectors.upperBound]
    var discard = Discard(
      zeroes: (nextVersion(), whole), others: (nextVersion(), others), device: device,
      exceptions: devices[device].exceptions)
    zeroes.insert(discard.zeroes.version)
    anything.insert(discard.others.version)
    for sector in whole { begin(discard.zeroes.version, device, sector) }
    for sector in others.joined() { begin(discard.others.version, device, sector) }
    if isPassedDown { discard.passedDown = beginPassingDown(sectors) }
    return discard
  }

  /// No snapshot gets a copy first: those without one lose what they show.
  private mutating func beginPassingDown(
    _ sectors: Range<Int>
  ) -> (version: Version, sectors: [(device: Int, sector: Int)]) {
    let version = nextVersion()
    anything.insert(version)
    passedDown[version] = sectors
    ambiguous?.append((version, sectors))
    var touched: [(device: Int, sector: Int)] = []
    for sector in sectors {
      begin(version, 0, sector)
      touched.append((0, sector))
    }
    for device in devices.indices where devices[device].isActive {
      for sector in sectors.clamped(to: 0..<devices[device].count)
      where !devices[device].exceptions.contains(sector / devices[device].chunk) {
        devices[device].base[sector].current.add(version)
        devices[device].base[sector].durable.add(version)
        devices[device].sectors[sector].inFlight += 1
        devices[device].sectors[sector].changes += 1
        touched.append((device, sector))
      }
    }
    return (version, touched)
  }

  mutating func endDiscard(_ discard: Discard, isDone: Bool) {
    let chunk = devices[discard.device].chunk
    for sector in discard.zeroes.sectors {
      end(
        discard, discard.zeroes.version, sector,
        isDone && discard.exceptions.contains(sector / chunk))
    }
    for sector in discard.others.sectors.joined() {
      end(
        discard, discard.others.version, sector,
        isDone && discard.exceptions.contains(sector / chunk))
    }
    guard let down = discard.passedDown else { return }
    passedDown[down.version] = nil
    for (device, sector) in down.sectors {
      devices[device].sectors[sector].inFlight -= 1
      devices[device].sectors[sector].changes += 1
    }
  }

  private mutating func end(
    _ discard: Discard, _ version: Version, _ sector: Int, _ isSure: Bool
  ) {
    devices[discard.device].sectors[sector].inFlight -= 1
    devices[discard.device].sectors[sector].changes += 1
    if isSure { devices[discard.device].sectors[sector].current = [version] }
  }

  // MARK: Flushing

  struct Flush: Sendable {
    fileprivate let device: Int
    fileprivate let epoch: Int
    fileprivate let last: UInt32
    fileprivate let before: [SectorState]
  }

  func beginFlush(_ device: Int) -> Flush {
    Flush(
      device: device, epoch: epoch, last: lastVersion, before: devices[device].sectors)
  }

  /// What was there when the flush began, or was begun since, is all that can be left.
  mutating func endFlush(_ flush: Flush) {
    guard flush.epoch == epoch else { return }
    var sector = 0
    while sector < flush.before.count {
      let durable = devices[flush.device].sectors[sector].durable
      let current = flush.before[sector].current
      if durable.count > 1 || durable != current {
        var kept = current
        for version in durable where version != .base && version.rawValue > flush.last {
          kept.add(version)
        }
        devices[flush.device].sectors[sector].durable = kept
      }
      sector += 1
    }
    guard flush.device == 0 else { return }
    for index in devices.indices where devices[index].isActive {
      for sector in 0..<devices[index].count where devices[index].base[sector].durable.count > 1 {
        let base = devices[index].base[sector]
        let origin = devices[0].sectors[sector].durable
        devices[index].base[sector].durable = base.durable.filter {
          origin.contains($0) || base.current.contains($0)
        }
      }
    }
  }

  // MARK: Reading

  struct Read: Sendable {
    fileprivate let device: Int
    fileprivate let epoch: Int
    fileprivate let last: UInt32
    fileprivate let sectors: Range<Int>
    /// The device as it was when the read began.
    fileprivate let before: DeviceModel
  }

  func beginRead(_ device: Int, _ sectors: Range<Int>) -> Read {
    Read(
      device: device, epoch: epoch, last: lastVersion, sectors: sectors, before: devices[device])
  }

  /// Checks what was read, and learns from it.
  mutating func endRead(
    _ read: Read, _ bytes: [UInt8], settlesDurable: Bool = false
  ) throws(CheckFailure) {
    guard read.epoch == epoch else { return }
    let contents = Content.of(bytes, from: Sector(UInt64(read.sectors.lowerBound)))
    var index = 0
    while index < contents.count {
      try check(read, read.sectors.lowerBound + index, contents[index], settlesDurable)
      index += 1
    }
  }

  /// Checks what was said of the content: zeros must be such.
  mutating func endStatus(_ read: Read, _ extents: [BlockExtent]) throws(CheckFailure) {
    guard read.epoch == epoch else { return }
    for extent in extents where extent.status == .zero {
      for sector in extent.sectors.indices {
        do throws(CheckFailure) {
          try check(read, sector, .zeroes, false)
        } catch {
          throw CheckFailure("said to be zeros: \(error)")
        }
      }
    }
  }

  private mutating func check(
    _ read: Read, _ sector: Int, _ content: Content, _ settlesDurable: Bool
  ) throws(CheckFailure) {
    var allowed = read.before.current(sector)
    let changes = devices[read.device].sectors[sector].changes
    let isQuiet = changes == read.before.sectors[sector].changes
    // Nearly always.
    if isQuiet, !settlesDurable, allowed.count == 1, content == .version(allowed[0]) { return }
    let state = devices[read.device].sectors[sector]
    if !isQuiet {
      var versions = state.current + state.durable
      if !devices[read.device].base.isEmpty {
        versions += devices[read.device].base[sector].current
      }
      let since = versions.filter { $0 != .base && $0.rawValue > read.last }
      for version in since { allowed.add(version) }
    }
    let found = allowed.filter { matches($0, content) }
    guard let version = found.first else {
      throw CheckFailure(
        "\(name(read.device)) sector \(sector) holds \(content); allowed \(allowed), "
          + "now \(devices[read.device].current(sector)), "
          + "durable \(devices[read.device].durable(sector))")
    }
    if isQuiet, state.inFlight == 0, found.count == 1 {
      devices[read.device].settle(sector, version, isDurable: settlesDurable)
    }
  }

  private func matches(_ version: Version, _ content: Content) -> Bool {
    content == .version(version) || anything.contains(version)
      || content == .zeroes && zeroes.contains(version)
  }

  private func name(_ device: Int) -> String { device == 0 ? "origin" : "snapshot \(device - 1)" }
}

// MARK: - Points in time

extension SnapshotModel {
  /// What the origin may hold when a snapshot's resume begins.
  struct Resume: Sendable {
    fileprivate let last: UInt32
    fileprivate let origin: [SectorState]
  }

  func beginResume() -> Resume { Resume(last: lastVersion, origin: devices[0].sectors) }

  /// A new snapshot has had its point in time, between `resume` and now.
  mutating func endResume(_ resume: Resume, _ device: Int) {
    let count = devices[device].count
    devices[device].base = []
    devices[device].base.reserveCapacity(count)
    var sector = 0
    while sector < count {
      let before = resume.origin[sector]
      var base = BaseState(current: before.current, durable: before.durable)
      let now = devices[0].sectors[sector]
      if now.changes != before.changes || now.inFlight > 0 {
        for version in now.current { base.current.add(version) }
        for version in now.durable where version.rawValue > resume.last {
          base.current.add(version)
        }
        for version in base.current + now.durable { base.durable.add(version) }
      }
      devices[device].base.append(base)
      sector += 1
    }
    devices[device].sectors = [SectorState](repeating: SectorState(.base), count: count)
    devices[device].exceptions = []
    devices[device].isActive = true
  }

  /// A snapshot has gone.
  mutating func drop(_ device: Int) { devices[device].isActive = false }

  /// From now on it may be that a snapshot is being merged: the origin shows it.
  mutating func beginMerge() {
    epoch += 1
    ambiguous = []
    for (version, write) in writes.sorted(by: { $0.key < $1.key }) where write.device == 0 {
      writes[version]?.isAmbiguous = true
      ambiguous?.append((version, write.sectors))
    }
    for (version, sectors) in passedDown.sorted(by: { $0.key < $1.key }) {
      ambiguous?.append((version, sectors))
    }
  }

  /// Now it is, for sure; or isn't, if `device` is nil.
  mutating func endMerge(_ device: Int?) {
    epoch += 1
    let between = ambiguous ?? []
    ambiguous = nil
    guard let device else { return }
    isMerging = true
    for sector in 0..<devices[device].count {
      devices[0].sectors[sector].current = devices[device].current(sector)
      devices[0].sectors[sector].durable = devices[device].durable(sector)
      devices[0].sectors[sector].changes += 1
    }
    for (version, sectors) in between {
      for sector in sectors.clamped(to: 0..<devices[device].count) {
        devices[0].sectors[sector].current.add(version)
        devices[0].sectors[sector].durable.add(version)
      }
    }
    devices[device].isActive = false
  }

  /// The power has gone. Nothing is under way any more.
  mutating func crash() {
    epoch += 1
    writes = [:]
    passedDown = [:]
    ambiguous = nil
    for device in devices.indices {
      for sector in devices[device].sectors.indices {
        devices[device].sectors[sector].current = devices[device].sectors[sector].durable
        devices[device].sectors[sector].inFlight = 0
        devices[device].sectors[sector].changes += 1
      }
      for sector in devices[device].base.indices {
        devices[device].base[sector].current = devices[device].base[sector].durable
      }
    }
  }
}
