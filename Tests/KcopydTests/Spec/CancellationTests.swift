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
}
