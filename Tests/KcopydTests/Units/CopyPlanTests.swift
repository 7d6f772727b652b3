import BlockIO
import BlockIOTesting
import Testing

@testable import Kcopyd

/// What a job is, once it has been found to make sense.
@Suite struct CopyPlanTests {
  private let disk = MemoryDevice(name: "disk", sectorCount: 100)
  private let other = MemoryDevice(name: "other", sectorCount: 100)

  @Test func theSourceCountDecides() throws {
    let plan = try CopyPlan(
      source: disk.region(0..<8), destinations: [other.region(8..<16), other.region(0..<0)],
      options: [])
    #expect(plan.count == 8 && !plan.isEmpty && plan.activeDestinations == [0])
    #expect(plan.order == .ascending && !plan.sourceOverlaps)
  }

  @Test func zeroingTakesTheCountOfTheDestinations() throws {
    let plan = try CopyPlan(
      source: nil, destinations: [disk.region(5..<5), other.region(8..<16)], options: [])
    #expect(plan.count == 8 && plan.activeDestinations == [1])
  }

  @Test func emptyJobs() throws {
    let all = [
      try CopyPlan(source: disk.region(9..<9), destinations: [other.region(0..<9)], options: []),
      try CopyPlan(source: disk.region(0..<9), destinations: [other.region(9..<9)], options: []),
      try CopyPlan(source: nil, destinations: [other.region(9..<9)], options: []),
    ]
    #expect(all.allSatisfy { $0.isEmpty })
  }

  @Test func regionsAreNotComparedWithTheirDevices() throws {
    let plan = try CopyPlan(
      source: IORegion(disk, sector: 1000, count: 8),
      destinations: [IORegion(other, sector: 96, count: 8)], options: [])
    #expect(plan.count == 8)
  }

  @Test func theLastSectorThatCanBeAddressed() throws {
    let end = UInt64(Int64.max) / 512
    let last = IORegion(disk, sector: Sector(end - 8), count: 8)
    _ = try CopyPlan(source: last, destinations: [other.region(0..<8)], options: [])
    let beyond = IORegion(disk, sector: Sector(end - 7), count: 8)
    #expect(throws: KcopydError.unaddressable(destination: nil)) {
      try CopyPlan(source: beyond, destinations: [other.region(0..<8)], options: [])
    }
  }

  // MARK: Order

  private func order(_ source: Range<Sector>, _ target: Range<Sector>) throws -> CopyPlan {
    try CopyPlan(
      source: disk.region(source), destinations: [other.region(0..<8), disk.region(target)],
      options: [])
  }

  @Test func overlapsDecideTheOrder() throws {
    let above = try order(20..<28, 27..<35)
    #expect(above.order == .descending && above.sourceOverlaps)
    let below = try order(20..<28, 13..<21)
    #expect(below.order == .ascending && below.sourceOverlaps)
    let same = try order(20..<28, 20..<28)
    #expect(same.order == .ascending && same.sourceOverlaps)
    for target in [Sector(28)..<36, 12..<20] {
      let beside = try order(20..<28, target)
      #expect(beside.order == .ascending && !beside.sourceOverlaps)
    }
  }

  @Test func theSameSectorsOfAnotherDeviceAreNoOverlap() throws {
    let plan = try CopyPlan(
      source: disk.region(0..<8), destinations: [other.region(4..<12)], options: [])
    #expect(!plan.sourceOverlaps)
  }

  // MARK: Options

  @Test func theFirstOptionsHaveTheKernelsBits() {
    #expect(CopyOptions.ignoreErrors.rawValue == 1 << 1)
    #expect(CopyOptions.sequentialWrites.rawValue == 1 << 2)
  }

  @Test func orderedWritesEndIgnoringErrors() throws {
    let region = disk.region(0..<8)
    let plan = try CopyPlan(
      source: region, destinations: [other.region(0..<8)],
      options: [.ignoreErrors, .sequentialWrites, .dropFailedDestinations])
    #expect(plan.options == [.sequentialWrites, .dropFailedDestinations])
    let ignoring = try CopyPlan(
      source: region, destinations: [other.region(0..<8)], options: .ignoreErrors)
    #expect(ignoring.options == .ignoreErrors)
  }

  @Test func aZonedDestinationIsWrittenInOrder() throws {
    let plans = try simulate { loop in
      let zoned = SimulatedDisk("zoned", sectorCount: 100, loop: loop, limits: .zoned)
      let plain = SimulatedDisk("plain", sectorCount: 100, loop: loop)
      return [
        try CopyPlan(
          source: plain.region(0..<8), destinations: [plain.region(8..<16), zoned.region(0..<8)],
          options: .ignoreErrors),
        // A zoned source is none, nor is one that is ignored.
        try CopyPlan(
          source: zoned.region(0..<8), destinations: [plain.region(8..<16), zoned.region(9..<9)],
          options: .ignoreErrors),
      ]
    }
    #expect(plans.map(\.options) == [.sequentialWrites, .ignoreErrors])
  }
}
