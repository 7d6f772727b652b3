import BlockIO
@testable import BlockIOTesting
import Kcopyd
import Synchronization

/// One random copy with holes, zeros, differences, faults and an observer, and the checks of what
/// it leaves.
struct ContentRun {
  /// What may be made wrong on purpose, to see that it is found.
  enum Sabotage: Sendable {
    case none
    /// Destinations with old data are called blank.
    case dirtyIsBlank
    /// Data are called a hole.
    case dataIsHole
    /// The observer is told the end first.
    case viewsAreMixedUp
    /// The destination loses a write.
    case lostWrite
    /// The account says more.
    case accountIsWrong
  }

  private static let count = Sector(300)
  private var random: SeededRandom
  private let sabotage: Sabotage

  init(seed: UInt64, _ sabotage: Sabotage) {
    random = SeededRandom(seed: seed)
    self.sabotage = sabotage
  }

  /// What a copy is made of.
  private struct Setup {
    let source: SimulatedDisk
    let targets: [SimulatedDisk]
    let starts: [Sector]
    let image: [UInt8]
    var content: CopyContent
    let options: CopyOptions
    let isFaulty: Bool
  }

  mutating func run(on loop: IOLoop) async throws {
    let watcher = Watcher()
    var setup = makeSetup(on: loop)
    if random.chance(2, in: 3) { setup.content.observer = watcher }
    let before = setup.targets.map(\.contents)
    let client = try KcopydClient(pages: 2 + pick(20), subJob: 8, on: loop)
    let progress = CopyProgress(destinations: setup.targets.count)
    let (source, targets, starts, options) =
      (setup.source, setup.targets, setup.starts, setup.options)
    let content = setup.content
    let task = Task(executorPreference: loop) {
      try await client.copy(
        from: IORegion(source, count: Self.count),
        to: zip(targets, starts).map { IORegion($0, sector: $1, count: Self.count) },
        options: options, content: content, progress: progress)
    }
    let isCancelled = random.chance(1, in: 6)
    if isCancelled {
      await loop.sleep(for: random.duration(in: .zero ... .milliseconds(8)))
      task.cancel()
    }
    let result = try await task.value
    await client.destroy()
    if !isCancelled && !setup.isFaulty {
      try ensure(result.isComplete, "nothing failed, and it isn't complete")
    }
    try check(setup, result, before)
    try checkAccount(setup, result, progress.snapshot)
    if content.observer != nil { try checkViews(watcher, setup, result) }
  }

  /// A number below `bound`.
  private mutating func pick(_ bound: Int) -> Int { Int(random.next(upperBound: UInt64(bound))) }

  // MARK: Setup

  private mutating func makeSetup(on loop: IOLoop) -> Setup {
    var image = Pattern("src").bytes(.zero..<Self.count)
    var zeroes = RangeSet<Sector>()
    for _ in 0..<pick(6) {
      let range = random.range(in: .zero..<Self.count, longest: 90)
      zeroes.insert(range)
      image.overwrite(
        at: Int(range.lowerBound.bytes), with: [UInt8](repeating: 0, count: Int(range.length.bytes))
      )
    }
    let source = SimulatedDisk(
      "src", sectorCount: Self.count, seed: random.next(), loop: loop, hasVolatileCache: false)
    source.fill(image)
    let isFaulty = random.chance(1, in: 3)
    if isFaulty, random.chance(1, in: 2) {
      source.plan = .failing(.read, random.range(in: .zero..<Self.count, longest: 4))
    }
    var content = CopyContent()
    for range in zeroes.ranges where random.chance(2, in: 3) { content.holes.insert(range) }
    if sabotage == .dataIsHole { content.holes.insert(40..<60) }
    if random.chance(1, in: 2) { content.shortestZeroRun = Sector(1 + UInt64(pick(30))) }
    content.differencesOnly = random.chance(1, in: 3)
    content.mayUnmap = random.chance(1, in: 2)
    var targets: [SimulatedDisk] = []
    var starts: [Sector] = []
    for index in 0..<1 + pick(3) {
      let start = Sector(UInt64(pick(20)))
      targets.append(makeTarget(index, start, image, isFaulty, &content, on: loop))
      starts.append(start)
    }
    let options: [CopyOptions] = [[], .ignoreErrors, .dropFailedDestinations, .sequentialWrites]
    return Setup(
      source: source, targets: targets, starts: starts, image: image, content: content,
      options: options[pick(4)], isFaulty: isFaulty)
  }

  /// A destination that is blank, old data, or nearly the same already.
  private mutating func makeTarget(
    _ index: Int, _ start: Sector, _ image: [UInt8], _ isFaulty: Bool, _ content: inout CopyContent,
    on loop: IOLoop
  ) -> SimulatedDisk {
    var limits = SimulatedDisk.allCapabilities
    limits.supportsWriteZeroes = random.chance(2, in: 3)
    if random.chance(1, in: 4) { limits.physicalBlock = 8192 }
    let isBlank = random.chance(1, in: 3)
    let disk = SimulatedDisk(
      "dst\(index)", sectorCount: Self.count + 40, content: isBlank ? .zeroes : nil,
      seed: random.next(), loop: loop, limits: limits, hasVolatileCache: false)
    if isBlank || sabotage == .dirtyIsBlank { content.blankDestinations.insert(index) }
    if !isBlank, random.chance(1, in: 2) {
      disk.fill(from: start, image)
      for _ in 0..<pick(4) {
        let range = random.range(in: start..<start + Self.count, longest: 12)
        disk.fill(from: range.lowerBound, Pattern("old").bytes(range))
      }
    }
    if isFaulty, random.chance(1, in: 2) {
      let bad = random.range(in: start..<start + Self.count, longest: 4)
      var plan = FaultPlan()
      plan.fail(.write, bad)
      plan.fail(.writeZeroes, bad)
      if random.chance(1, in: 2) { plan.fail(.read, bad) }
      disk.plan = plan
    }
    var plan = disk.plan
    if sabotage == .lostWrite { plan.lie(.lostWrite, 60..<80) }
    disk.plan = plan
    return disk
  }

  // MARK: Checks

  /// The source as destinations get it.
  private func expected(_ setup: Setup, _ result: CopyResult) -> [UInt8] {
    var image = setup.image
    for bad in result.readFailures.sectors.ranges {
      image.overwrite(
        at: Int(bad.lowerBound.bytes), with: [UInt8](repeating: 0, count: Int(bad.length.bytes)))
    }
    return image
  }

  private func check(_ setup: Setup, _ result: CopyResult, _ before: [[UInt8]]) throws {
    let image = expected(setup, result)
    for (index, disk) in setup.targets.enumerated() {
      let start = setup.starts[index]
      var holding = before[index]
      for range in result.written(index).ranges {
        holding.overwrite(
          at: Int((start + range.lowerBound).bytes), with: image,
          from: Int(range.lowerBound.bytes), count: Int(range.length.bytes))
      }
      guard let mismatch = disk.mismatch(with: holding) else { continue }
      for range in mismatch.sectors.ranges {
        let place = range.lowerBound.rawValue..<range.upperBound.rawValue
        for sector in place.map({ Sector($0) }) {
          let isMissing =
            sector >= start && result.destinations[index].missing.contains(sector - start)
          // A write that failed may have got there in part.
          let isNew =
            isMissing
            && disk.contents(sector..<sector + 1)
              == image.copy(at: Int((sector - start).bytes), count: 512)
          try ensure(isNew, "contents of \(disk.name): \(mismatch)")
        }
      }
    }
    for request in setup.source.log where request.operation == .read {
      let read = RangeSet(request.sectors ?? 0..<0)
      try ensure(
        setup.content.holes.intersection(read).isEmpty, "a hole is read: \(request)")
    }
  }

  private func checkAccount(
    _ setup: Setup, _ result: CopyResult, _ progress: CopyProgress.Snapshot
  ) throws {
    for (index, disk) in setup.targets.enumerated() {
      var said = progress.destinations[index]
      if sabotage == .accountIsWrong { said.zeroed += 512 }
      try ensure(
        said.written == result.written(index).sectorCount.bytes, "account: \(said.written) bytes")
      // What was neither zero nor equal has been sent, each sector once.
      guard disk.limits.supportsWriteZeroes, result.destinations[index].failures.isEmpty else {
        continue
      }
      let sent = disk.log.filter { $0.operation == .write }
        .reduce(Sector.zero) { $0 + ($1.sectors?.length ?? .zero) }
      try ensure(
        said.written == said.zeroed + said.equal + sent.bytes,
        "account: \(said), sent \(sent.bytes)")
      try ensure(said.equal == 0 || setup.content.differencesOnly, "account: equal, not compared")
    }
  }

  private func checkViews(_ watcher: Watcher, _ setup: Setup, _ result: CopyResult) throws {
    var views = watcher.views.value
    if sabotage == .viewsAreMixedUp { views.reverse() }
    let image = expected(setup, result)
    var position = Sector.zero
    for (segment, data) in views {
      try ensure(segment.lowerBound == position, "observed out of order: \(segment.label)")
      position = segment.upperBound
      let held = data ?? [UInt8](repeating: 0, count: Int(segment.length.bytes))
      try ensure(
        held == image.copy(at: Int(segment.lowerBound.bytes), count: held.count),
        "observed something else: \(segment.label)")
    }
    if result.isComplete { try ensure(position == Self.count, "observed up to \(position)") }
  }

  /// Takes its time, and keeps what it sees at the end of it.
  private final class Watcher: CopyObserver {
    let views = Locked<[(Range<Sector>, [UInt8]?)]>([])

    func observe(_ segment: Range<Sector>, _ data: IOBuffer?) async {
      await Task.yield()
      var bytes: [UInt8]?
      if let data {
        var held = [UInt8](repeating: 0, count: data.byteCount)
        data.store(into: &held)
        bytes = held
      }
      views.withLock { $0.append((segment, bytes)) }
    }
  }
}
