import BlockIO
import BlockIOTesting
import Kcopyd
import SystemPackage
import Testing

/// What errors do to a job, and what is said about them.
@Suite struct ErrorTests {
  /// A copy of 200 sectors in pieces of 8 with these faults.
  private struct Setting {
    let source: SimulatedDisk
    let targets: [SimulatedDisk]
    let client: KcopydClient

    init(
      _ loop: IOLoop, reads: FaultPlan = FaultPlan(), writes: [FaultPlan] = [FaultPlan()],
      limits: DeviceLimits = SimulatedDisk.allCapabilities
    ) throws {
      source = SimulatedDisk(
        "src", sectorCount: 200, seed: 77, loop: loop, limits: limits, plan: reads)
      targets = writes.enumerated().map { number, plan in
        SimulatedDisk(
          "dst\(number)", sectorCount: 200, seed: UInt64(number), loop: loop, plan: plan)
      }
      client = try KcopydClient(subJob: 8, on: loop)
    }

    func copy(_ options: CopyOptions = []) async throws -> CopyResult {
      try await client.copy(
        from: source.region, to: targets.map(\.region), options: options)
    }
  }

  // MARK: Without ignoreErrors

  @Test func afterAReadErrorNothingNewIsTakenAndTheRestIsFinished() throws {
    try simulate { loop in
      let setting = try Setting(loop, reads: .failing(.read, 20..<21))
      let result = try await setting.copy()
      #expect(result.ending == .stoppedByError && result.readError && result.writeErrors == 0)
      // From the bad sector to the end of its segment.
      #expect(result.readFailures.sectors == .of(20..<24))
      let reads = setting.source.log.of(.read)
      let bad = try #require(reads.first { $0.failure != nil })
      #expect(bad.sectors == 16..<24)
      let end = try #require(bad.end)
      #expect(reads.allSatisfy { $0.start <= end })
      #expect(reads.count < 25)
      // All that were read are written, the bad one isn't.
      let read = reads.filter { $0.failure == nil }.sectors
      #expect(setting.targets[0].log.of(.write).sectors == read)
      #expect(result.written(0) == read)
      for range in read.ranges {
        #expect(setting.targets[0].holds(setting.source, from: range.lowerBound, at: range))
      }
      for range in result.destinations[0].missing.ranges {
        #expect(setting.targets[0].isUntouched(range))
      }
    }
  }

  @Test func aWriteErrorSetsTheBitAndLeavesTheOthersAlone() throws {
    try simulate { loop in
      let setting = try Setting(
        loop, writes: [FaultPlan(), .failing(.write, 12..<13), FaultPlan()])
      let result = try await setting.copy()
      #expect(result.ending == .stoppedByError && !result.readError && result.writeErrors == 0b010)
      #expect(result.destinations[1].failures.sectors == .of(12..<16))
      // That segment was already under way to the others.
      #expect(result.written(0) == result.written(2))
      #expect(result.written(0).contains(8) && result.written(0).contains(15))
      #expect(result.written(1) == result.written(0).subtracting(.of(12..<16)))
      let end = try #require(setting.targets[1].log.first { $0.failure != nil }?.end)
      #expect(setting.source.log.allSatisfy { $0.start <= end })
      #expect(!result.written(0).contains(199))
    }
  }

  @Test func readAndWriteErrorsOfDifferentSegmentsAreBothReported() throws {
    try simulate { loop in
      // The bad read comes late, while the other segments are written.
      var reads = FaultPlan.failing(.read, 0..<1)
      reads.slowDown(0..<1, by: .milliseconds(1))
      let setting = try Setting(loop, reads: reads, writes: [.failing(.write, 8..<64)])
      let result = try await setting.copy()
      #expect(result.readError && result.writeErrors == 0b1)
      #expect(result.readFailures.sectors == .of(0..<8))
    }
  }

  @Test func whatFailedIsSaidWithItsReason() throws {
    try simulate { loop in
      var plan = FaultPlan()
      plan.fail(.read, 20..<21, errno: .noSuchAddressOrDevice)
      let setting = try Setting(loop, reads: plan)
      let result = try await setting.client.copy(
        from: setting.source.region(10..<30), to: [setting.targets[0].region(0..<20)],
        options: .ignoreErrors)
      let entry = try #require(result.readFailures.entries.first)
      // Counted from the start of the job; the failure itself has the device's sectors.
      #expect(entry.sectors == 10..<11)
      #expect(entry.failure.sectors == 20..<21)
      #expect(entry.failure.errno == .noSuchAddressOrDevice)
      #expect(result.readFailures.entries.count == 1)
    }
  }

  // MARK: With ignoreErrors

  @Test func unreadableSectorsArriveAsZerosAndAllElseIsCopied() throws {
    try simulate { loop in
      var reads = FaultPlan.failing(.read, 20..<22)
      reads.fail(.read, 104..<105)
      let setting = try Setting(loop, reads: reads)
      let result = try await setting.copy(.ignoreErrors)
      #expect(result.ending == .finished && result.readError && result.writeErrors == 0)
      let bad = RangeSet<Sector>.of(20..<22, 104..<105)
      #expect(result.readFailures.sectors == bad)
      #expect(result.destinations[0].missing.isEmpty)
      for range in RangeSet.of(0..<200).subtracting(bad).ranges {
        #expect(setting.targets[0].holds(setting.source, from: range.lowerBound, at: range))
      }
      for range in bad.ranges { #expect(setting.targets[0].isZero(range)) }
    }
  }

  /// Blocks are those of the device, not of the region; what comes before the failing sector has
  /// been read.
  @Test func unreadableSectorsAreFoundToThePhysicalBlock() throws {
    try simulate { loop in
      var limits = SimulatedDisk.allCapabilities
      limits.physicalBlock = 4096
      let setting = try Setting(loop, reads: .failing(.read, 19..<20), limits: limits)
      let target = setting.targets[0]
      let client = try KcopydClient(subJob: 64, on: loop)
      let result = try await client.copy(
        from: setting.source.region(3..<67), to: [target.region(3..<67)], options: .ignoreErrors)
      #expect(result.readFailures.sectors == .of(16..<21))
      #expect(target.isZero(19..<24))
      #expect(target.holds(setting.source, from: 3, at: 3..<19))
      #expect(target.holds(setting.source, from: 24, at: 24..<67))
    }
  }

  /// Of a failure without a place only the size of the request is known.
  @Test(arguments: [512, 4096])
  func failuresWithoutAPlaceAreHalved(physicalBlock: Int) throws {
    try simulate { loop in
      let source = VagueDisk(
        sectorCount: 200, bad: [37, 100], physicalBlock: physicalBlock, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 200, loop: loop)
      let client = try KcopydClient(subJob: 64, on: loop)
      let result = try await client.copy(
        from: source.region(3..<200), to: [target.region(3..<200)], options: .ignoreErrors)
      let bad: RangeSet<Sector> =
        physicalBlock == 512 ? .of(37..<38, 100..<101) : .of(32..<40, 96..<104)
      let places = bad.ranges.map { $0.lowerBound - 3..<$0.upperBound - 3 }
      #expect(result.readFailures.sectors == RangeSet(places))
      for range in bad.ranges { #expect(target.isZero(range)) }
      for range in RangeSet.of(3..<200).subtracting(bad).ranges {
        #expect(target.mismatch(range, with: source.pattern) == nil)
      }
      // Whole blocks but for the ends of the segments.
      let block = UInt64(physicalBlock / 512)
      let ends: Set<Sector> = [3, 67, 131, 195, 200]
      for sectors in source.requests {
        for end in [sectors.lowerBound, sectors.upperBound] {
          #expect(ends.contains(end) || end.rawValue % block == 0)
        }
      }
    }
  }

  @Test func aReadThatSucceedsTheSecondTimeIsNoFailure() throws {
    try simulate { loop in
      var reads = FaultPlan()
      reads.fail(.read, 20..<22, times: 1)
      let setting = try Setting(loop, reads: reads)
      let result = try await setting.copy(.ignoreErrors)
      #expect(result.isComplete && result.readFailures.isEmpty)
      #expect(setting.targets[0].holds(setting.source, from: 0, at: 0..<200))
    }
  }

  @Test func ignoredWriteErrorsDoNotEndTheJob() throws {
    try simulate { loop in
      let setting = try Setting(
        loop, writes: [.failing(.write, 12..<13), .failing(.write, 197..<200)])
      let result = try await setting.copy(.ignoreErrors)
      #expect(result.ending == .finished && result.writeErrors == 0b11)
      #expect(result.destinations[0].missing == .of(12..<16))
      #expect(result.destinations[1].missing == .of(197..<200))
      #expect(setting.targets[0].holds(setting.source, from: 16, at: 16..<200))
      #expect(setting.targets[1].holds(setting.source, from: 0, at: 0..<197))
    }
  }

  // MARK: With dropFailedDestinations

  @Test func aFailedDestinationIsLeftAloneAndTheOthersAreFinished() throws {
    try simulate { loop in
      let setting = try Setting(loop, writes: [FaultPlan(), .failing(.write, 12..<13)])
      let result = try await setting.copy(.dropFailedDestinations)
      #expect(result.ending == .finished && result.writeErrors == 0b10)
      #expect(setting.targets[0].holds(setting.source, from: 0, at: 0..<200))
      let log = setting.targets[1].log
      let end = try #require(log.first { $0.failure != nil }?.end)
      #expect(log.count < 25 && log.allSatisfy { $0.start <= end })
      #expect(result.written(1) == log.sectors.subtracting(.of(12..<16)))
    }
  }

  @Test func withoutAnyDestinationLeftTheJobEnds() throws {
    try simulate { loop in
      let setting = try Setting(
        loop, writes: [.failing(.write, 12..<13), .failing(.write, 40..<41)])
      let result = try await setting.copy([.dropFailedDestinations, .ignoreErrors])
      #expect(result.ending == .stoppedByError && result.writeErrors == 0b11)
      #expect(setting.source.count(of: .read) < 25)
    }
  }

  // MARK: Devices

  @Test func aReadOnlyDestinationGivesAnOrdinaryBit() throws {
    try simulate { loop in
      var limits = SimulatedDisk.allCapabilities
      limits.isReadOnly = true
      let setting = try Setting(loop)
      let fixed = SimulatedDisk("fixed", sectorCount: 200, loop: loop, limits: limits)
      let result = try await setting.client.copy(
        from: setting.source.region, to: [setting.targets[0].region, fixed.region],
        options: .dropFailedDestinations)
      #expect(result.writeErrors == 0b10 && result.written(1).isEmpty)
      #expect(result.destinations[1].failures.entries.first?.failure.errno == .readOnlyFileSystem)
      #expect(fixed.isUntouched(0..<200))
    }
  }

  @Test func beyondTheEndOfTheSource() throws {
    try simulate { loop in
      let setting = try Setting(loop)
      let result = try await setting.client.copy(
        from: IORegion(setting.source, sector: 170, count: 40),
        to: [setting.targets[0].region(0..<40)], options: .ignoreErrors)
      #expect(result.readFailures.sectors == .of(30..<40) && result.writeErrors == 0)
      #expect(setting.targets[0].holds(setting.source, from: 170, at: 0..<30))
      #expect(setting.targets[0].isZero(30..<40))
    }
  }

  /// Pieces wholly inside are written, the one that crosses the end isn't.
  @Test func beyondTheEndOfADestination() throws {
    try simulate { loop in
      let setting = try Setting(loop, writes: [FaultPlan(), FaultPlan()])
      let result = try await setting.client.copy(
        from: setting.source.region(0..<48),
        to: [
          IORegion(setting.targets[0], sector: 179, count: 48),
          setting.targets[1].region(0..<48),
        ])
      #expect(result.ending == .stoppedByError && result.writeErrors == 0b01)
      #expect(result.written(0) == .of(0..<16))
      #expect(result.destinations[0].failures.sectors == .of(16..<48))
      #expect(result.written(1) == .of(0..<48))
      #expect(setting.targets[0].holds(setting.source, from: 0, at: 179..<195))
      #expect(setting.targets[0].isUntouched(195..<200))
    }
  }
}

/// A disk that says that a request failed and not where.
private final class VagueDisk: BlockDevice {
  let name = "vague"
  let sectorCount: Sector
  let limits: DeviceLimits
  let pattern = Pattern("vague")
  private let bad: [Sector]
  private let loop: IOLoop
  private let log = Locked<[Range<Sector>]>([])

  init(sectorCount: Sector, bad: [Sector], physicalBlock: Int, loop: IOLoop) {
    self.sectorCount = sectorCount
    self.bad = bad
    self.loop = loop
    var limits = DeviceLimits()
    limits.physicalBlock = physicalBlock
    self.limits = limits
  }

  var requests: [Range<Sector>] { log.value }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    log.withLock { $0.append(sectors) }
    await loop.sleep(for: .milliseconds(1))
    guard !bad.contains(where: sectors.contains) else {
      // Whatever the buffer holds then isn't to be used.
      Pattern("trash").fill(buffer, from: sectors.lowerBound)
      throw IOFailure(.read, name, sectors, errno: .ioError)
    }
    pattern.fill(buffer, from: sectors.lowerBound)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    throw IOFailure(.write, name, sectors, errno: .readOnlyFileSystem)
  }

  func flush() async throws(IOFailure) {}
}
