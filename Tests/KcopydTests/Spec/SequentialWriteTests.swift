import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// Writes of one job in strictly ascending order.
@Suite struct SequentialWriteTests {
  private static func copy(
    _ loop: IOLoop, reads: FaultPlan = FaultPlan(), writes: FaultPlan = FaultPlan(),
    options: CopyOptions = .sequentialWrites,
    limits: DeviceLimits = SimulatedDisk.allCapabilities
  ) async throws -> (source: SimulatedDisk, target: SimulatedDisk, result: CopyResult) {
    let source = SimulatedDisk("src", sectorCount: 200, seed: 3, loop: loop, plan: reads)
    let target = SimulatedDisk(
      "dst", sectorCount: 200, seed: 4, loop: loop, limits: limits, plan: writes)
    let client = try KcopydClient(subJob: 8, on: loop)
    let result = try await client.copy(
      from: source.region, to: [target.region], options: options)
    await client.destroy()
    return (source, target, result)
  }

  @Test func writesAscendOneByOneWhileReadsRunAhead() throws {
    try simulate { loop in
      let (source, target, result) = try await Self.copy(loop)
      #expect(result.isComplete && target.holds(source, from: 0, at: 0..<200))
      #expect(target.log.of(.write).isAscending)
      #expect(target.log.maximumInFlight == 1)
      #expect(source.log.maximumInFlight == 8)
    }
  }

  @Test func aZonedDestinationIsWrittenInOrderByItself() throws {
    try simulate { loop in
      let (source, target, result) = try await Self.copy(
        loop, reads: .failing(.read, 100..<101), options: .ignoreErrors, limits: .zoned)
      #expect(target.log.of(.write).isAscending && target.log.maximumInFlight == 1)
      // Errors are no longer ignored then.
      #expect(result.ending == .stoppedByError)
      #expect(target.holds(source, from: 0, at: 0..<96) && target.isUntouched(96..<200))
    }
  }

  @Test func afterAWriteErrorNothingMoreIsWritten() throws {
    try simulate { loop in
      let (source, target, result) = try await Self.copy(
        loop, writes: .failing(.write, 50..<51))
      #expect(result.ending == .stoppedByError && result.writeErrors == .max)
      #expect(result.destinations[0].wasAbandoned)
      #expect(result.destinations[0].failures.sectors == .of(50..<56))
      #expect(target.log.of(.write).sectors == .of(0..<56))
      #expect(target.holds(source, from: 0, at: 0..<50) && target.isUntouched(51..<200))
      #expect(result.written(0) == .of(0..<50))
    }
  }

  /// The kernel's own loop waits for ever here.
  @Test func aReadErrorEndsTheJobAndWhatLiesBehindIsNotWritten() throws {
    try simulate { loop in
      let (source, target, result) = try await Self.copy(
        loop, reads: .failing(.read, 16..<17))
      #expect(result.ending == .stoppedByError && result.readError)
      // Later ones had been read and are given up: all ones.
      #expect(result.writeErrors == .max)
      #expect(source.log.sectors.contains(24))
      #expect(target.log.of(.write).sectors == .of(0..<16))
      #expect(result.destinations[0].failures.isEmpty)
      #expect(result.written(0) == .of(0..<16))
    }
  }

  /// What had been taken in front of the bad segment is read and written to its end.
  @Test func segmentsInFrontOfAReadErrorAreStillWritten() throws {
    try simulate { loop in
      var reads = FaultPlan.failing(.read, 40..<41)
      reads.slowDown(0..<24, by: .milliseconds(50))
      let (source, target, result) = try await Self.copy(loop, reads: reads)
      #expect(result.written(0) == .of(0..<40))
      #expect(target.log.of(.write).sectors == .of(0..<40))
      #expect(target.holds(source, from: 0, at: 0..<40) && target.isUntouched(40..<200))
    }
  }

  @Test func withOneDestinationDroppedTheOthersGoOnInOrder() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 200, loop: loop)
      let bad = SimulatedDisk("bad", sectorCount: 200, loop: loop, plan: .failing(.write, 50..<51))
      let good = SimulatedDisk("good", sectorCount: 200, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.copy(
        from: source.region, to: [bad.region, good.region],
        options: [.sequentialWrites, .dropFailedDestinations])
      #expect(result.ending == .finished && result.writeErrors == 0b01)
      #expect(result.written(0) == .of(0..<50) && result.destinations[1].missing.isEmpty)
      #expect(good.log.isAscending && good.holds(source, from: 0, at: 0..<200))
    }
  }

  @Test func zerosAreWrittenInOrder() throws {
    try simulate { loop in
      var limits = DeviceLimits.zoned
      limits.supportsWriteZeroes = false
      let target = SimulatedDisk("dst", sectorCount: 200, loop: loop, limits: limits)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.zero([target.region(3..<150)])
      #expect(result.isComplete && target.isZero(3..<150))
      #expect(target.log.of(.write).count == 19)
      #expect(target.log.isAscending && target.log.maximumInFlight == 1)
    }
  }

  @Test func cancellationLeavesAPrefix() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 200, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 200, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let ended = Locked<CopyResult?>(nil)
      let handle = try client.copy(
        from: source.region, to: [target.region], options: .sequentialWrites
      ) { result in ended.withLock { $0 = result } }
      await loop.sleep(for: .milliseconds(5))
      handle.cancel()
      await client.destroy()
      let result = try #require(ended.value)
      #expect(result.ending == .cancelled && result.writeErrors == 0)
      let written = try #require(result.written(0).ranges.first)
      #expect(written.lowerBound == 0 && result.written(0).ranges.count == 1)
      #expect(target.holds(source, from: 0, at: written))
      #expect(target.isUntouched(written.upperBound..<200))
    }
  }
}
