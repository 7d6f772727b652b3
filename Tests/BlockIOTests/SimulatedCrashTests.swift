import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

/// What a loss of power leaves of a ``SimulatedDisk``.
@Suite struct SimulatedCrashTests {
  private static let old = Pattern("disk")
  private static let new = Pattern("new")

  /// Which of the patterns each sector holds; nil: none of them.
  private static func versions(
    _ disk: SimulatedDisk, _ sectors: Range<Sector>, of patterns: [Pattern]
  ) -> [Int?] {
    var found: [Int?] = []
    var sector = sectors.lowerBound
    while sector < sectors.upperBound {
      found.append(
        patterns.firstIndex { disk.mismatch(sector..<sector + 1, with: $0) == nil })
      sector += 1
    }
    return found
  }

  @Test func flushedDataSurviveAndOthersAreOldOrNew() throws {
    let torn = Locked(0)
    try simulateForEachSeed(40) { seed, loop in
      let disk = SimulatedDisk("disk", sectorCount: 64, seed: seed, loop: loop)
      let pages = await (try PagePool(pageCount: 2)).take(2)
      Self.new.fill(pages.buffer, from: 0)
      try await disk.write(0..<16, from: pages.buffer)
      try await disk.flush()
      Self.new.fill(pages.buffer, from: 16)
      try await disk.write(16..<32, from: pages.buffer)
      Self.new.fill(pages.buffer, from: 32)
      try await disk.write(32..<48, from: pages.buffer, options: .durable)
      var random = SeededRandom(seed: seed)
      disk.crash(random: &random)
      disk.powerOn()
      if let lost = disk.mismatch(0..<16, with: Self.new) { throw lost }
      if let lost = disk.mismatch(32..<48, with: Self.new) { throw lost }
      if let wrong = disk.mismatch(48..<64, with: Self.old) { throw wrong }
      let versions = Self.versions(disk, 16..<32, of: [Self.old, Self.new])
      try ensure(!versions.contains(nil), "neither old nor new")
      if Set(versions).count == 2 { torn.withLock { $0 += 1 } }
      try await disk.read(0..<16, into: pages.buffer)
      if let wrong = Self.new.mismatch(pages.buffer, from: 0) { throw wrong }
    }
    // Not a promise, but without it the crashes prove little.
    if seeds(40).count == 40 { #expect(torn.value > 15) }
  }

  /// A flush covers what had completed when it began, and nothing that was under way.
  @Test func flushCoversCompletedWritesOnly() throws {
    let lost = Locked(0)
    try simulateForEachSeed(40) { seed, loop in
      let disk = SimulatedDisk("disk", sectorCount: 16, seed: seed, loop: loop)
      let pages = await (try PagePool(pageCount: 2)).take(2)
      let buffer = pages.buffer
      Self.new.fill(buffer, from: 0)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await disk.write(0..<16, from: buffer) }
        group.addTask { try await disk.flush() }
        try await group.waitForAll()
      }
      var random = SeededRandom(seed: seed)
      disk.crash(random: &random)
      let versions = Self.versions(disk, 0..<16, of: [Self.old, Self.new])
      try ensure(!versions.contains(nil), "neither old nor new")
      if versions.contains(0) { lost.withLock { $0 += 1 } }
    }
    if seeds(40).count == 40 { #expect(lost.value > 25) }
  }

  /// Once a later version is durable an earlier one can't come back.
  @Test func earlierVersionsStayAway() throws {
    try simulateForEachSeed(30) { seed, loop in
      let disk = SimulatedDisk("disk", sectorCount: 8, seed: seed, loop: loop)
      let pages = await (try PagePool(pageCount: 1)).take(1)
      for label in ["v1", "v2", "v3"] {
        Pattern(label).fill(pages.buffer, from: 0)
        // Versions 1 and 2 without a flush; 3 makes itself durable, in the middle sectors.
        let isLast = label == "v3"
        let sectors: Range<Sector> = isLast ? 2..<6 : 0..<8
        try await disk.write(
          sectors, from: pages.buffer.slice(sectors.lowerBound, sectors.length),
          options: isLast ? .durable : [])
      }
      var random = SeededRandom(seed: seed)
      disk.crash(random: &random)
      if let wrong = disk.mismatch(2..<6, with: Pattern("v3")) { throw wrong }
      let rest = Self.versions(
        disk, 0..<2, of: [Self.old, Pattern("v1"), Pattern("v2")])
      try ensure(!rest.contains(nil), "a version that was never written")
    }
  }

  @Test func requestsUnderWayAndNewOnesFail() throws {
    try simulateForEachSeed(20) { seed, loop in
      let disk = SimulatedDisk("disk", sectorCount: 16, seed: seed, loop: loop)
      let pages = await (try PagePool(pageCount: 2)).take(2)
      let buffer = pages.buffer
      Self.new.fill(buffer, from: 0)
      let failure = await withTaskGroup(of: IOFailure?.self) { group in
        group.addTask {
          do throws(IOFailure) {
            try await disk.write(0..<16, from: buffer)
            return nil
          } catch {
            return error
          }
        }
        group.addTask {
          await loop.sleep(for: .microseconds(9))
          var random = SeededRandom(seed: seed)
          disk.crash(random: &random)
          disk.powerOn()
          return nil
        }
        return await group.reduce(nil) { $0 ?? $1 }
      }
      try ensure(failure?.detail == SimulatedDisk.powerLost, "the write ended: \(failure as Any)")
      try ensure(disk.inFlight == 0, "something is under way")
      let versions = Self.versions(disk, 0..<16, of: [Self.old, Self.new])
      try ensure(!versions.contains(nil), "neither old nor new")
      var random = SeededRandom(seed: seed)
      disk.crash(random: &random)
      do throws(IOFailure) {
        try await disk.flush()
        throw IOFailure(.flush, "it went well", errno: .ioError)
      } catch {
        try ensure(error.detail == SimulatedDisk.powerLost, "\(error)")
      }
    }
  }

  /// A lying flush – the canary of all crash tests – loses data sometimes.
  @Test func ignoredFlushIsNoticed() throws {
    let lost = Locked(0)
    try simulateForEachSeed(20) { seed, loop in
      var plan = FaultPlan()
      plan.ignoresFlushes = true
      let disk = SimulatedDisk("disk", sectorCount: 8, seed: seed, loop: loop, plan: plan)
      let pages = await (try PagePool(pageCount: 1)).take(1)
      Self.new.fill(pages.buffer, from: 0)
      try await disk.write(0..<8, from: pages.buffer)
      try await disk.flush()
      var random = SeededRandom(seed: seed)
      disk.crash(random: &random)
      if disk.mismatch(0..<8, with: Self.new) != nil { lost.withLock { $0 += 1 } }
    }
    if seeds(20).count == 20 { #expect(lost.value > 10) }
  }

  // MARK: The switch

  /// Data before a pointer to them, over two disks: the classic that crashes are to prove right –
  /// or wrong, without the flush between the two.
  private static func commit(
    data: SimulatedDisk, index: SimulatedDisk, flushes: Bool
  ) async throws -> Int {
    let pages = await (try PagePool(pageCount: 2)).take(2)
    var committed = 0
    do throws(IOFailure) {
      for number in 0..<3 as Range<UInt64> {
        let place = Sector(number * 8)..<Sector(number * 8 + 8)
        new.fill(pages.buffer.slice(0, 8), from: place.lowerBound)
        try await data.write(place, from: pages.buffer.slice(0, 8))
        if flushes { try await data.flush() }
        let entry = Sector(number)..<Sector(number + 1)
        new.fill(pages.buffer.slice(0, 1), from: entry.lowerBound)
        try await index.write(entry, from: pages.buffer.slice(0, 1))
        try await index.flush()
        committed += 1
      }
    } catch {
      try ensure(error.detail == SimulatedDisk.powerLost, "\(error)")
    }
    return committed
  }

  /// The number of operations of a whole run, or what is wrong after a crash.
  private static func run(
    seed: UInt64, crashPoint: Int?, flushes: Bool
  ) throws -> (operations: Int, isConsistent: Bool) {
    try simulate { loop in
      let power = CrashSwitch(crashPoint: crashPoint, seed: seed)
      let data = SimulatedDisk(
        "data", sectorCount: 32, content: .zeroes, seed: seed, loop: loop, crashSwitch: power)
      let index = SimulatedDisk(
        "index", sectorCount: 4, content: .zeroes, seed: seed + 1, loop: loop, crashSwitch: power)
      let committed = try await commit(data: data, index: index, flushes: flushes)
      try ensure(power.isOff == (crashPoint != nil), "the switch is wrong")
      power.turnOn()
      var isConsistent = true
      for number in 0..<3 as Range<UInt64> {
        let entry = Sector(number)..<Sector(number + 1)
        let place = Sector(number * 8)..<Sector(number * 8 + 8)
        let isThere = index.mismatch(entry, with: new) == nil
        if isThere, data.mismatch(place, with: new) != nil { isConsistent = false }
        if !isThere, number < committed { isConsistent = false }
      }
      return (power.operations, isConsistent)
    }
  }

  @Test func crashAtEveryOperation() throws {
    let operations = try Self.run(seed: 1, crashPoint: nil, flushes: true).operations
    #expect(operations == 12)
    for point in 0..<operations {
      try forEachSeed(4) { seed in
        let run = try Self.run(seed: seed, crashPoint: point, flushes: true)
        try ensure(run.isConsistent, "data lost at operation \(point)")
        try ensure(run.operations == point + 1, "went on after the crash")
      }
    }
  }

  /// The canary: without the flush the same loop finds crashes that lose data.
  @Test func missingFlushIsFound() throws {
    let operations = try Self.run(seed: 1, crashPoint: nil, flushes: false).operations
    var lost = 0
    for point in 0..<operations {
      for seed in 0..<4 as Range<UInt64>
      where try !Self.run(seed: seed, crashPoint: point, flushes: false).isConsistent {
        lost += 1
      }
    }
    #expect(lost > 3)
  }
}
