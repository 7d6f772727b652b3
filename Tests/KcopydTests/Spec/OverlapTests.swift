import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// A source that overlaps its destination is copied as `memmove` does.
@Suite struct OverlapTests {
  private static func copy(
    by distance: Int, count: Sector = 100, subJob: Sector, options: CopyOptions = []
  ) throws {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 320, loop: loop)
      let other = SimulatedDisk("other", sectorCount: 320, loop: loop)
      let client = try KcopydClient(subJob: subJob, on: loop)
      let source = Sector(110)..<110 + count
      let start = Sector(UInt64(110 + distance))
      let target = start..<start + count
      // Through another name, and with a second destination out of the way.
      let result = try await client.copy(
        from: disk.region(source), to: [Alias(disk).region(target), other.region(0..<count)],
        options: options)
      await client.destroy()
      #expect(result.isComplete)
      #expect(disk.holds(disk, from: 110, at: target))
      #expect(other.holds(disk, from: 110, at: 0..<count))
      #expect(disk.isUntouched(0..<min(110, start)))
      #expect(disk.isUntouched(max(110, start) + count..<320))
    }
  }

  @Test(arguments: [1, 7, 8, 9, 50, 92, 99])
  func bothWays(distance: Int) throws {
    for subJob in [Sector(8), 9, 64, 100, 128] {
      try Self.copy(by: distance, subJob: subJob)
      try Self.copy(by: -distance, subJob: subJob)
      try Self.copy(by: -distance, subJob: subJob, options: .sequentialWrites)
    }
  }

  @Test func toItself() throws {
    try Self.copy(by: 0, subJob: 8)
    try Self.copy(by: 0, subJob: 8, options: .sequentialWrites)
  }

  /// Next to each other is no overlap: all sub-jobs run at once.
  @Test func neighboursAreNoOverlap() throws {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 200, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.copy(
        from: disk.region(0..<100), to: [disk.region(100..<200)])
      #expect(result.isComplete && disk.holds(disk, from: 0, at: 100..<200))
      #expect(disk.log.maximumInFlight == 8)
    }
  }

  @Test func theSegmentsAreTheSameInDescendingOrder() throws {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 200, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      _ = try await client.copy(from: disk.region(0..<30), to: [disk.region(5..<35)])
      #expect(disk.log.of(.read).map(\.sectors) == [24..<30, 16..<24, 8..<16, 0..<8])
      #expect(disk.log.of(.write).map(\.sectors) == [29..<35, 21..<29, 13..<21, 5..<13])
      #expect(disk.log.maximumInFlight == 1)
    }
  }

  @Test func anErrorLeavesTheRestOfTheSourceAlone() throws {
    try simulate { loop in
      let disk = SimulatedDisk(
        "disk", sectorCount: 200, loop: loop, plan: .failing(.read, 20..<21))
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.copy(from: disk.region(0..<40), to: [disk.region(4..<44)])
      #expect(result.ending == .stoppedByError)
      #expect(result.written(0) == .of(24..<40))
      #expect(disk.holds(disk, from: 24, at: 28..<44) && disk.isUntouched(0..<28))
    }
  }
}
