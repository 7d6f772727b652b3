import BlockIO
@testable import BlockIOTesting
@testable import Imaging
import Kcopyd

/// A source with errors, destinations with faults and a map on simulated disks; runs until all is
/// done, with a loss of power somewhere, and checks each claim of the map and each account.
struct RescueWorld: Sendable {
  /// What is done wrong on purpose: each must be found.
  enum Sabotage: Sendable {
    case none
    /// The destinations say they have flushed, and haven't: as a map written before the flush.
    case lyingFlush
    /// A bad sector is taken as read.
    case forgottenSector
    /// A destination loses a write.
    case lostWrite
    /// A destination that isn't is taken as blank.
    case dirtyBlank
  }

  let seed: UInt64
  var crashPoint: Int?
  var sabotage = Sabotage.none

  static let count: Sector = 220

  private final class State {
    let source: SimulatedDisk
    let targets: [SimulatedDisk]
    let folder: SimulatedFolder
    let power: CrashSwitch
    /// What the source is known to have no data in.
    let holes: RangeSet<Sector>
    /// What the destinations held at the beginning.
    let before: [[UInt8]]

    init(
      source: SimulatedDisk, holes: RangeSet<Sector>, targets: [SimulatedDisk],
      folder: SimulatedFolder, power: CrashSwitch
    ) {
      self.source = source
      self.holes = holes
      self.targets = targets
      self.folder = folder
      self.power = power
      before = targets.map(\.contents)
    }

    /// Destinations that hold nothing but zeros.
    var blank: Set<Int> { Set(targets.indices.filter { before[$0].allSatisfy { $0 == 0 } }) }
  }

  /// How many operations there were that a crash may hit.
  func run() throws -> Int { try simulate { loop in try await run(on: loop) } }

  private func run(on loop: IOLoop) async throws -> Int {
    var random = SeededRandom(seed: seed)
    let region = random.range(in: 0..<Self.count, longest: Self.count)
    let start = Sector(random.next(upperBound: UInt64(20)))
    let block: Sector = random.element(of: [1, 1, 8])
    var bad = RangeSet<Sector>()
    let plan = faults(&random, &bad)
    let power = CrashSwitch(crashPoint: crashPoint, seed: seed)
    let holes = zeroes(&random)
    bad.subtract(holes)
    let state = State(
      source: SimulatedDisk(
        "src", sectorCount: Self.count, seed: random.next(), loop: loop, plan: plan,
        crashSwitch: power),
      holes: holes,
      targets: (0..<1 + Int(random.next(upperBound: UInt64(3)))).map { number in
        SimulatedDisk(
          "dst\(number)", sectorCount: Self.count + 30,
          content: random.chance(1, in: 3) ? .zeroes : nil, seed: random.next(), loop: loop,
          plan: targetFaults(&random), crashSwitch: power)
      },
      folder: SimulatedFolder(seed: random.next(), loop: loop, power: power), power: power)
    for range in holes.union(zeroes(&random)).ranges {
      state.source.fill(
        from: range.lowerBound, [UInt8](repeating: 0, count: Int(range.length.bytes)))
    }
    var options = ImagingJob.Options()
    var content = CopyContent()
    content.holes = inRegion(holes, region)
    content.shortestZeroRun = random.element(of: [nil, 1, 16])
    content.blankDestinations =
      sabotage == .dirtyBlank ? Set(state.targets.indices) : state.blank
    let mayCompare = random.chance(1, in: 4)
    options.saveInterval = .milliseconds(random.element(of: [2, 10, 1000]))
    options.window = random.element(of: [16, 64])
    options.fill = random.element(of: [nil, nil, .zeros, .marker])
    var order = RescuePlan.Options(count: region.length, block: block)
    order.cluster = max(block, random.element(of: [8, 16]))
    order.initialSkip = 16
    order.maximumSkip = 32
    order.readsInFlight = random.element(of: [1, 4])
    order.retries = 3
    let lost = Loss(
      blocks: lostBlocks(bad, block, region).subtracting(holes),
      sectors: bad.intersection(RangeSet(region)))
    // Some begin without a rescue, and learn that they need one.
    var isRescue = random.chance(2, in: 3)
    for round in 0..<12 {
      options.rescue = isRescue ? order : nil
      content.differencesOnly = mayCompare && !isRescue
      options.content = content
      let result = try await once(state, region, start, options, loop)
      if power.isOff || result == nil {
        power.turnOff()
        state.folder.restart()
        power.turnOn()
      }
      try await checkClaims(state, region, start, loop)
      if let result, let end = try check(result, state, region, start, lost, options) {
        if end { return power.operations }
      }
      isRescue = true
      // Something has been written: they aren't what they were.
      content.blankDestinations = sabotage == .dirtyBlank ? content.blankDestinations : []
      if round >= 3 {
        for target in state.targets where sabotage == .none { target.plan = .init() }
      }
    }
    throw CheckFailure("not done after 12 runs")
  }

  /// What can't be read: by blocks, in which a rescue reads, and by sectors; a copy that isn't a
  /// rescue may have got some sectors of a block.
  private struct Loss {
    let blocks: RangeSet<Sector>
    let sectors: RangeSet<Sector>

    func isExactly(_ found: RangeSet<Sector>) -> Bool {
      found.subtracting(blocks).isEmpty && sectors.subtracting(found).isEmpty
    }
  }

  // MARK: What goes wrong

  private func faults(_ random: inout SeededRandom, _ bad: inout RangeSet<Sector>) -> FaultPlan {
    var plan = FaultPlan()
    let all = Sector.zero..<Self.count
    for _ in 0..<random.next(upperBound: UInt64(5)) {
      let range = random.range(in: all, longest: 12)
      switch random.next(upperBound: UInt64(3)) {
      case 0:
        plan.fail(.read, range)
        bad.insert(range)
      case 1: plan.fail(.read, range, times: 1)
      default: plan.slowDown(range, by: .milliseconds(20))
      }
    }
    return plan
  }

  /// Some places.
  private func zeroes(_ random: inout SeededRandom) -> RangeSet<Sector> {
    var zeroes = RangeSet<Sector>()
    for _ in 0..<random.next(upperBound: UInt64(4)) {
      zeroes.insert(random.range(in: 0..<Self.count, longest: 60))
    }
    return zeroes
  }

  /// The part of the region, counted from its start.
  private func inRegion(_ sectors: RangeSet<Sector>, _ region: Range<Sector>) -> RangeSet<Sector> {
    RangeSet(
      sectors.intersection(RangeSet(region)).ranges.map {
        $0.lowerBound - region.lowerBound..<$0.upperBound - region.lowerBound
      })
  }

  private func targetFaults(_ random: inout SeededRandom) -> FaultPlan {
    var plan = FaultPlan()
    plan.ignoresFlushes = sabotage == .lyingFlush
    let all = Sector.zero..<Self.count
    if sabotage == .lostWrite { plan.lie(.lostWrite, 60..<200) }
    if random.chance(1, in: 4) {
      plan.fail(.write, random.range(in: all, longest: 30), times: 1)
    }
    if random.chance(1, in: 6) { plan.failFlushes(times: 1, after: 1) }
    return plan
  }

  private func lostBlocks(
    _ bad: RangeSet<Sector>, _ block: Sector, _ region: Range<Sector>
  ) -> RangeSet<Sector> {
    var lost = RangeSet<Sector>()
    var start = Sector(region.lowerBound.rawValue / block.rawValue * block.rawValue)
    while start < region.upperBound {
      let whole = (start..<start + block).clamped(to: region)
      if !bad.intersection(RangeSet(whole)).isEmpty { lost.insert(whole) }
      start += block
    }
    return lost
  }

  // MARK: A run

  /// nil when it couldn't begin.
  private func once(
    _ state: State, _ region: Range<Sector>, _ start: Sector, _ options: ImagingJob.Options,
    _ loop: IOLoop
  ) async throws -> ImagingResult? {
    let store = MapStore("map", in: state.folder, on: loop)
    let source: any BlockDevice =
      sabotage == .forgottenSector ? OptimisticDevice(state.source) : state.source
    let from = IORegion(source, sector: region.lowerBound, count: region.length)
    let to = state.targets.map { IORegion($0, sector: start, count: region.length) }
    var record = ProgressRecord(
      source: .init(
        name: "src", bytes: state.source.byteCount, identity: "file:1", modified: nil),
      region: .init(from: region.lowerBound, to: start, count: region.length),
      destinations: state.targets.map {
        .init(name: $0.name, identity: "file:\($0.name)", durable: RangeSet())
      })
    let resumption = try Resumption(
      try await store.load(), source: record.source, region: record.region,
      targets: record.destinations.map { .init(name: $0.name, identity: $0.identity) })
    try await SourceSample.verify(resumption, source: from, targets: to)
    record.destinations += resumption.absent
    let client = try KcopydClient(subJob: 8, on: loop)
    let job = try ImagingJob(
      from: from, to: to, resuming: resumption,
      keeping: .init(store, record: record) { ["test"] }, options: options, client: client)
    guard (try? await job.begin()) != nil else { return nil }
    state.source.clearLog()
    let result = await job.run()
    if !state.power.isOff { try checkReads(state, resumption, region) }
    return result
  }

  /// Nothing is read that all have, or that is a hole, but for a few samples.
  private func checkReads(
    _ state: State, _ resumption: Resumption, _ region: Range<Sector>
  ) throws {
    let all = resumption.durable.dropFirst().reduce(resumption.durable[0]) {
      $0.intersection($1)
    }
    var again = RangeSet<Sector>()
    for request in state.source.log {
      if let sectors = request.sectors { again.insert(sectors) }
    }
    again.formIntersection(all.union(state.holes))
    try ensure(again.sectorCount <= 16, "read again: \(again)")
  }

  // MARK: Checks

  /// What the map and the record claim is there, on disks that have just lost their power or not.
  private func checkClaims(
    _ state: State, _ region: Range<Sector>, _ start: Sector, _ loop: IOLoop
  ) async throws {
    let found = try await MapStore("map", in: state.folder, on: loop).load()
    guard let mapfile = found.mapfile, let record = found.record else { return }
    try ensure(found.belongTogether, "the record doesn't go with its map")
    let claimed = StatusMap(mapfile, byteCount: state.source.byteCount)
      .sectors([.finished], in: 0..<Self.count)
    for (index, target) in state.targets.enumerated() {
      let durable = record.destinations[index].sectors
      try ensure(claimed.subtracting(durable).isEmpty, "the map claims more than the record")
      for range in durable.ranges {
        let there = range.shifted(by: start - Sector(0)).lowerBound - region.lowerBound
        let mismatch = target.mismatch(from: there, with: state.source.contents(range))
        if let mismatch { throw CheckFailure("claimed and not there: \(mismatch)") }
      }
    }
  }

  /// The account of a run; whether all is done. nil after a crash.
  private func check(
    _ result: ImagingResult, _ state: State, _ region: Range<Sector>, _ start: Sector,
    _ lost: Loss, _ options: ImagingJob.Options
  ) throws -> Bool? {
    if result.destinations.contains(where: { $0.failure?.detail == SimulatedDisk.powerLost })
      || result.mapFailure != nil || result.readFailures.contains(where: { $0.detail != nil })
    {
      return nil
    }
    for (index, target) in state.targets.enumerated() {
      let destination = result.destinations[index]
      let before = state.before[index]
      var expected = before
      func put(_ sectors: RangeSet<Sector>, _ bytes: (Range<Sector>) -> [UInt8]) {
        for range in sectors.ranges {
          let there = start + (range.lowerBound - region.lowerBound)
          expected.overwrite(at: Int(there.bytes), with: bytes(range))
        }
      }
      put(destination.written) { state.source.contents($0) }
      put(destination.filled) { filling($0, options.fill) }
      guard destination.failure == nil else { continue }
      // What failed or was cut off before may have left anything that isn't claimed.
      let there = destination.written.union(destination.filled).ranges
      for range in there {
        let place = start + (range.lowerBound - region.lowerBound)
        let sectors = place..<place + range.length
        let mismatch = target.mismatch(
          from: place,
          with: expected.copy(
            at: Int(sectors.lowerBound.bytes), count: Int(sectors.length.bytes)))
        if let mismatch { throw CheckFailure("wrong on '\(target.name)': \(mismatch)") }
      }
      let beyond = start + region.length
      try ensure(
        target.mismatch(with: before.copy(at: 0, count: Int(start.bytes))) == nil
          && target.mismatch(
            from: beyond,
            with: before.copy(
              at: Int(beyond.bytes), count: before.count - Int(beyond.bytes))) == nil,
        "written beside the region")
    }
    guard result.ending == .finished, options.rescue != nil,
      result.destinations.allSatisfy({ $0.failure == nil })
    else { return false }
    try ensure(lost.isExactly(result.lost), "lost \(result.lost) instead of \(lost)")
    for index in state.targets.indices {
      let missing = result.missing(index)
      try ensure(lost.isExactly(missing), "missing \(missing) instead of \(lost)")
      try ensure(
        options.fill == nil || result.destinations[index].filled == missing, "not filled")
    }
    return true
  }

  private func filling(_ range: Range<Sector>, _ fill: ImagingJob.Fill?) -> [UInt8] {
    (range.lowerBound.rawValue..<range.upperBound.rawValue).flatMap { sector in
      guard fill == .marker else { return [UInt8](repeating: 0, count: 512) }
      let line = Array("kcopyd: sector \(sector) couldn't be read\n".utf8)
      return (0..<512).map { line[$0 % line.count] }
    }
  }
}

/// A source whose errors come one sector too late.
private final class OptimisticDevice: BlockDevice {
  private let device: SimulatedDisk

  init(_ device: SimulatedDisk) { self.device = device }

  var name: String { device.name }
  var sectorCount: Sector { device.sectorCount }
  var limits: DeviceLimits { device.limits }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    do throws(IOFailure) {
      try await device.read(sectors, into: buffer)
    } catch {
      guard let failed = error.sectors, failed.length > 1, error.detail == nil else { throw error }
      throw error.at(failed.lowerBound + 1..<failed.upperBound)
    }
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await device.write(sectors, from: buffer, options: options)
  }

  func flush() async throws(IOFailure) { try await device.flush() }
}
