import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// A cancelled job takes nothing new, finishes what is under way, and tells what is missing.
@Suite struct CancellationTests {
  private static func check(
    _ result: CopyResult, _ source: SimulatedDisk, _ target: SimulatedDisk, at time: LoopInstant
  ) {
    #expect(result.ending == .cancelled && !result.readError && result.writeErrors == 0)
    #expect(source.log.allSatisfy { $0.start <= time })
    #expect(target.log.of(.write).sectors == source.log.sectors)
    #expect(result.written(0) == source.log.sectors)
    #expect(target.holds(source, from: 0, at: 0..<result.written(0).sectorCount))
    #expect(target.isUntouched(result.written(0).sectorCount..<400))
    #expect(result.written(0).sectorCount > 64 && result.written(0).sectorCount < 400)
  }

  @Test func byItsHandle() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 400, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 400, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let results = Locked<[CopyResult]>([])
      let handle = try client.copy(from: source.region, to: [target.region]) { result in
        results.withLock { $0.append(result) }
      }
      await loop.sleep(for: .milliseconds(4))
      let time = loop.now
      handle.cancel()
      handle.cancel()
      await client.destroy()
      #expect(results.value.count == 1)
      Self.check(try #require(results.value.first), source, target, at: time)
      // Too late is no harm.
      handle.cancel()
    }
  }

  @Test func byItsTask() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 400, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 400, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let task = Task(executorPreference: loop) {
        try await client.copy(from: source.region, to: [target.region])
      }
      await loop.sleep(for: .milliseconds(4))
      let time = loop.now
      task.cancel()
      Self.check(try await task.value, source, target, at: time)
      await client.destroy()
    }
  }

  @Test func atOnce() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 400, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 400, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let handle = try client.copy(from: source.region, to: [target.region]) { result in
        #expect(result.ending == .cancelled && result.written(0).isEmpty)
      }
      handle.cancel()
      await client.destroy()
      #expect(source.log.isEmpty && target.log.isEmpty)
    }
  }

  /// The page goes from one to the next without being used.
  @Test func whileItWaitsForPages() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 400, loop: loop, plan: .slow(0..<8))
      let target = SimulatedDisk("dst", sectorCount: 400, loop: loop)
      let client = try KcopydClient(pages: 1, subJob: 8, on: loop)
      try client.copy(from: source.region(0..<8), to: [target.region(0..<8)]) { _ in }
      let handle = try client.copy(
        from: source.region(8..<400), to: [target.region(8..<400)]
      ) { result in
        #expect(result.ending == .cancelled && result.written(0).isEmpty)
      }
      await loop.sleep(for: .milliseconds(1))
      handle.cancel()
      await client.destroy()
      #expect(source.log.count == 1)
    }
  }

  /// A bad disk can take long over one segment; what isn't known of it by then isn't written.
  @Test func whileItLooksForUnreadableSectors() throws {
    try simulate { loop in
      var plan = FaultPlan.failing(.read, 40..<64)
      plan.slowDown(40..<64, by: .seconds(1))
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop, plan: plan)
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 32, on: loop)
      let ended = Locked<(CopyResult, LoopInstant)?>(nil)
      let handle = try client.copy(
        from: source.region, to: [target.region], options: .ignoreErrors
      ) { result in
        let now = loop.now
        ended.withLock { $0 = (result, now) }
      }
      await loop.sleep(for: .milliseconds(4500))
      let time = loop.now
      handle.cancel()
      await client.destroy()
      let (result, end) = try #require(ended.value)
      // Nothing but the request under way is waited for.
      #expect(time.duration(to: end) <= .milliseconds(1010))
      #expect(result.ending == .cancelled && result.readError && !result.isComplete)
      #expect(result.written(0) == .of(0..<32) && result.writeErrors == 0)
      #expect(target.holds(source, from: 0, at: 0..<32) && target.isUntouched(32..<64))
      #expect(result.readFailures.sectors.subtracting(.of(40..<64)).isEmpty)
    }
  }
}
