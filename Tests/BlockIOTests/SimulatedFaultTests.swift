import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

/// Errors, lies and the emulations of ``SimulatedDisk``.
@Suite struct SimulatedFaultTests {
  /// Calls `body` with a disk of 64 sectors and a buffer of 16.
  private func withDisk<R: Sendable>(
    limits: DeviceLimits = SimulatedDisk.allCapabilities, plan: FaultPlan = FaultPlan(),
    content: SimulatedDisk.Content? = nil,
    _ body: @escaping @Sendable (SimulatedDisk, IOBuffer) async throws -> R
  ) throws -> R {
    try simulate { loop in
      let disk = SimulatedDisk(
        "disk", sectorCount: 64, content: content, seed: 7, loop: loop, limits: limits, plan: plan)
      let pages = await (try PagePool(pageCount: 2)).take(2)
      return try await body(disk, pages.buffer)
    }
  }

  @Test func readErrorNamesTheBadSectorToTheEndOfTheRequest() throws {
    var plan = FaultPlan()
    plan.fail(.read, 13..<14)
    try withDisk(plan: plan) { disk, buffer in
      buffer.clear()
      let found = await failure { try await disk.read(8..<24, into: buffer) }
      #expect(found == IOFailure(.read, "disk", 13..<24, errno: .ioError))
      #expect(Pattern("disk").mismatch(buffer.slice(0, 5), from: 8) == nil)
      #expect(buffer.slice(5, 11).isZero)
      #expect(
        await failure { try await disk.read(8..<13, into: buffer.slice(0, 5)) } == nil)
    }
  }

  @Test func writeErrorLeavesTheRestAsItWas() throws {
    var plan = FaultPlan()
    plan.fail(.write, 10..<12, errno: .noSpace)
    try withDisk(plan: plan) { disk, buffer in
      Pattern("new").fill(buffer, from: 0)
      let found = await failure { try await disk.write(0..<16, from: buffer) }
      #expect(found == IOFailure(.write, "disk", 10..<16, errno: .noSpace))
      #expect(disk.mismatch(0..<10, with: Pattern("new")) == nil)
      #expect(disk.mismatch(10..<64, with: Pattern("disk")) == nil)
      #expect(disk.log.first?.failure == found)
    }
  }

  @Test func faultsCanPass() throws {
    var plan = FaultPlan()
    plan.fail(.read, 0..<1, times: 2, after: 1)
    plan.failFlushes(times: 1)
    try withDisk(plan: plan) { disk, buffer in
      var reads: [Bool] = []
      for _ in 0..<5 {
        reads.append(
          await failure { try await disk.read(0..<1, into: buffer.slice(0, 1)) } == nil)
      }
      #expect(reads == [true, false, false, true, true])
      let flushes = [
        await failure(disk.flush)?.operation, await failure(disk.flush)?.operation,
      ]
      #expect(flushes == [.flush, nil])
      #expect(disk.count(of: .read) == 5 && disk.count(of: .flush) == 2)
    }
  }

  @Test func zeroesAndDiscards() throws {
    var plan = FaultPlan()
    plan.fail(.writeZeroes, 40..<41)
    plan.fail(.discard, 50..<51)
    try withDisk(plan: plan) { disk, _ in
      try await disk.writeZeroes(3..<10, mayUnmap: true)
      #expect(disk.contents(3..<10).allSatisfy { $0 == 0 })
      #expect(disk.mismatch(10..<64, with: Pattern("disk")) == nil)
      let extents = try await disk.blockStatus(0..<20, limit: 10)
      #expect(
        extents == [
          BlockExtent(0..<3, .data), BlockExtent(3..<10, .zero), BlockExtent(10..<20, .data),
        ])
      #expect(try await disk.blockStatus(0..<20, limit: 2) == Array(extents.prefix(2)))
      let zeroing = await failure { try await disk.writeZeroes(39..<42, mayUnmap: false) }
      #expect(zeroing?.sectors == 40..<42)
      let discarding = await failure { try await disk.discard(50..<51) }
      #expect(discarding?.sectors == 50..<51)
      try await disk.discard(20..<30)
      #expect(disk.mismatch(42..<64, with: Pattern("disk")) == nil)
    }
  }

  @Test func incapableDisk() throws {
    try withDisk(limits: DeviceLimits()) { disk, buffer in
      try await disk.writeZeroes(3..<10, mayUnmap: true)
      #expect(disk.contents(3..<10).allSatisfy { $0 == 0 })
      #expect(disk.count(of: .write) == 1 && disk.count(of: .writeZeroes) == 0)
      let discard = await failure { try await disk.discard(0..<1) }
      #expect(discard?.errno == .notSupported)
      try await disk.write(0..<16, from: buffer, options: .durable)
      #expect(disk.count(of: .flush) == 1)
    }
    var readOnly = DeviceLimits()
    readOnly.isReadOnly = true
    try withDisk(limits: readOnly) { disk, buffer in
      let found = await failure { try await disk.write(0..<16, from: buffer) }
      #expect(found?.errno == .readOnlyFileSystem)
      try await disk.read(0..<16, into: buffer)
      try await disk.flush()
    }
  }

  @Test func slowSectorsAndTheEnd() throws {
    var plan = FaultPlan()
    plan.slowDown(5..<6, by: .seconds(3600))
    try withDisk(plan: plan, content: .zeroes) { disk, buffer in
      try await disk.read(0..<16, into: buffer)
      try await disk.read(6..<22, into: buffer)
      let log = disk.log
      let seconds = log.compactMap { entry in
        entry.end.map { entry.start.duration(to: $0).components.seconds }
      }
      #expect(seconds == [3600, 0])
      #expect(log.maximumInFlight == 1 && !log.isAscending)
      #expect(try await disk.blockStatus(0..<64, limit: 1) == [BlockExtent(0..<64, .zero)])
      let beyond = await failure { try await disk.read(60..<76, into: buffer) }
      #expect(beyond?.errno == .ioError && beyond?.sectors == 60..<76)
    }
  }

  /// The canaries: a disk that lies about one sector must be caught by the checks of patterns.
  @Test func liesAreCaught() throws {
    var plan = FaultPlan()
    plan.lie(.corruptRead, 9..<10)
    plan.lie(.lostWrite, 20..<21)
    try withDisk(plan: plan) { disk, buffer in
      try await disk.read(0..<16, into: buffer)
      let corrupt = try #require(Pattern("disk").mismatch(buffer, from: 0))
      #expect(corrupt.sectors == RangeSet(9..<10))
      #expect(corrupt.first.contains("'disk  :000000009' with other bytes behind it"))
      Pattern("new").fill(buffer, from: 16)
      try await disk.write(16..<32, from: buffer)
      let lost = try #require(disk.mismatch(16..<32, with: Pattern("new")))
      #expect(lost.sectors == RangeSet(20..<21))
      #expect(
        lost.first
          == "sector 20 holds 'disk  :000000020' instead of 'new   :000000020'")
    }
  }

  /// A buffer that its owner changes too early must show as wrong data.
  @Test func buffersAreUsedInTheMiddleOfRequests() throws {
    let wrong = try simulate { loop in
      var wrong = 0
      for seed in 0..<20 as Range<UInt64> {
        let disk = SimulatedDisk("disk", sectorCount: 8, seed: seed, loop: loop)
        let pages = await (try PagePool(pageCount: 1)).take(1)
        let buffer = pages.buffer
        Pattern("new").fill(buffer, from: 0)
        try await withThrowingTaskGroup(of: Void.self) { group in
          group.addTask { try await disk.write(0..<8, from: buffer) }
          group.addTask {
            await loop.sleep(for: .microseconds(300))
            buffer.clear()
          }
          try await group.waitForAll()
        }
        if disk.mismatch(0..<8, with: Pattern("new")) != nil { wrong += 1 }
      }
      return wrong
    }
    #expect(wrong > 5 && wrong < 20)
  }
}
