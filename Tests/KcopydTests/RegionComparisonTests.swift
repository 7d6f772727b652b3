import BlockIO
import BlockIOTesting
import Testing

@testable import Kcopyd

/// Comparing two regions.
@Suite struct RegionComparisonTests {
  /// Two disks with the same content in `0..<200`.
  private static func disks(
    _ loop: IOLoop, plans: (FaultPlan, FaultPlan) = (FaultPlan(), FaultPlan())
  ) -> (SimulatedDisk, SimulatedDisk) {
    let disks = (
      SimulatedDisk("one", sectorCount: 250, seed: 1, loop: loop, plan: plans.0),
      SimulatedDisk("two", sectorCount: 250, seed: 2, loop: loop, plan: plans.1)
    )
    disks.1.fill(from: 10, Pattern("one").bytes(0..<200))
    return disks
  }

  private static func compare(
    _ loop: IOLoop, _ disks: (SimulatedDisk, SimulatedDisk), pages: Int? = nil,
    progress: CopyProgress? = nil
  ) async throws -> ComparisonResult {
    let client = try KcopydClient(pages: pages, subJob: 8, on: loop)
    let result = try await client.compare(
      disks.0.region(0..<200), disks.1.region(10..<210), progress: progress)
    await client.destroy()
    return result
  }

  @Test(arguments: [nil, 2, 3, 16])
  func equalRegions(pages: Int?) throws {
    try simulate { loop in
      let disks = Self.disks(loop)
      let progress = CopyProgress(destinations: 0)
      let result = try await Self.compare(loop, disks, pages: pages, progress: progress)
      #expect(result.isEqual && result.compared == 200 && result.differing == 0)
      #expect(result.first == nil && result.ranges.isEmpty)
      #expect(progress.snapshot.read == 200 * 512)
      #expect(disks.0.log.sectors == .of(0..<200) && disks.1.log.sectors == .of(10..<210))
      #expect(disks.0.log.maximumInFlight == (pages.map { $0 / 2 } ?? 4))
    }
  }

  @Test func differencesAreCounted() throws {
    try simulate { loop in
      let disks = Self.disks(loop)
      // Across the end of a piece, and a single byte.
      disks.1.fill(from: 33, Pattern("other").bytes(0..<3))
      var sector = disks.1.contents(160..<161)
      sector[511] ^= 1
      disks.1.fill(from: 160, sector)
      let result = try await Self.compare(loop, disks)
      #expect(!result.isEqual && result.compared == 200)
      #expect(result.differing == 4 && result.first == 23)
      #expect(result.ranges == .of(23..<26, 150..<151))
    }
  }

  @Test func rangesAreLimitedCountsAreNot() throws {
    try simulate { loop in
      let disks = (
        SimulatedDisk("one", sectorCount: 4096, content: .zeroes, loop: loop),
        SimulatedDisk("two", sectorCount: 4096, content: .zeroes, loop: loop)
      )
      for number in 0..<1500 as Range<UInt64> {
        disks.1.fill(from: Sector(2 * number), Pattern("two").bytes(0..<1))
      }
      let client = try KcopydClient(subJob: 64, on: loop)
      let result = try await client.compare(disks.0.region, disks.1.region)
      #expect(result.differing == 1500 && result.first == 0)
      let ranges = result.ranges.ranges.count
      #expect(ranges >= ComparisonResult.maximumRanges && ranges < 1024 + 64)
    }
  }

  @Test func whatCannotBeReadIsNotCompared() throws {
    try simulate { loop in
      let disks = Self.disks(loop, plans: (.failing(.read, 20..<21), .failing(.read, 60..<61)))
      disks.1.fill(from: 100, Pattern("other").bytes(0..<1))
      let result = try await Self.compare(loop, disks)
      #expect(!result.isEqual && result.compared == 184)
      #expect(result.readFailures.0.sectors == .of(16..<24))
      #expect(result.readFailures.1.sectors == .of(48..<56))
      #expect(result.readFailures.1.entries.first?.failure.device == "two")
      #expect(result.differing == 1 && result.first == 90)
    }
  }

  @Test func beyondTheEnd() throws {
    try simulate { loop in
      let disks = Self.disks(loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.compare(
        IORegion(disks.0, sector: 234, count: 20), IORegion(disks.1, sector: 0, count: 20))
      #expect(!result.isEqual && result.compared == 16)
      #expect(result.readFailures.0.sectors == .of(16..<20) && result.readFailures.1.isEmpty)
    }
  }

  @Test func nothingIsEqualToNothing() throws {
    try simulate { loop in
      let disks = Self.disks(loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.compare(disks.0.region(7..<7), disks.1.region(9..<9))
      #expect(result.isEqual && disks.0.log.isEmpty && disks.1.log.isEmpty)
    }
  }

  /// What was not compared is not equal.
  @Test func aCancelledComparisonIsNoProof() throws {
    try simulate { loop in
      let disks = Self.disks(loop)
      let task = Task(executorPreference: loop) { try await Self.compare(loop, disks, pages: 2) }
      await loop.sleep(for: .milliseconds(3))
      task.cancel()
      let result = try await task.value
      #expect(result.compared < 200 && result.differing == 0 && !result.isEqual)
    }
  }

  @Test func refusals() throws {
    try simulate { loop in
      let (one, two) = Self.disks(loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      await #expect(throws: KcopydError.unequalCounts(destination: 0)) {
        try await client.compare(one.region(0..<8), two.region(0..<9))
      }
      let wild = IORegion(one, sector: Sector(.max), count: 8)
      await #expect(throws: KcopydError.unaddressable(destination: nil)) {
        try await client.compare(wild, two.region(0..<8))
      }
      await #expect(throws: KcopydError.unaddressable(destination: 0)) {
        try await client.compare(two.region(0..<8), wild)
      }
      let small = try KcopydClient(pages: 1, subJob: 8, on: loop)
      await #expect(throws: KcopydError.reserveBelowSubJob(pages: 1, needed: 2)) {
        try await small.compare(one.region(0..<8), two.region(0..<8))
      }
      #expect(one.log.isEmpty && two.log.isEmpty)
    }
  }
}
