import BlockIO
import BlockIOTesting
import Testing

@testable import Kcopyd

/// What makes no sense is refused before anything is read or written.
@Suite struct RefusalTests {
  private static func refusal(
    _ body:
      @escaping @Sendable (_ client: KcopydClient, _ disk: SimulatedDisk, _ loop: IOLoop)
      async throws -> Void
  ) throws -> KcopydError? {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 100, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      var refusal: KcopydError?
      do {
        try await body(client, disk, loop)
      } catch {
        refusal = error as? KcopydError
      }
      #expect(disk.log.isEmpty)
      // Nothing has been left behind that it would wait for.
      await client.destroy()
      return refusal
    }
  }

  @Test func noDestination() throws {
    let copying = try Self.refusal { client, disk, _ in
      _ = try await client.copy(from: disk.region(0..<8), to: [])
    }
    #expect(copying == .noDestinations)
    let zeroing = try Self.refusal { client, _, _ in _ = try await client.zero([]) }
    #expect(zeroing == .noDestinations)
  }

  @Test func tooManyDestinations() throws {
    let refusal = try Self.refusal { client, disk, _ in
      let many = (0..<65).map { IORegion(disk, sector: Sector($0), count: 1) }
      _ = try await client.copy(from: disk.region(99..<100), to: many)
    }
    #expect(refusal == .tooManyDestinations(65))
  }

  @Test func unequalCounts() throws {
    let copying = try Self.refusal { client, disk, _ in
      try client.copy(
        from: disk.region(0..<8), to: [disk.region(8..<16), disk.region(16..<25)]
      ) { _ in Issue.record("notified") }
    }
    #expect(copying == .unequalCounts(destination: 1))
    let zeroing = try Self.refusal { client, disk, _ in
      _ = try await client.zero([disk.region(8..<15), disk.region(16..<24)])
    }
    #expect(zeroing == .unequalCounts(destination: 0))
  }

  @Test func regionsThatCannotBeAddressed() throws {
    // The sum overflows; the number of bytes does.
    for start in [Sector(.max - 3), Sector(1 << 60)] {
      let source = try Self.refusal { client, disk, _ in
        _ = try await client.copy(
          from: IORegion(disk, sector: start, count: 8), to: [disk.region(0..<8)])
      }
      #expect(source == .unaddressable(destination: nil))
      let destination = try Self.refusal { client, disk, _ in
        _ = try await client.copy(
          from: disk.region(0..<8),
          to: [disk.region(8..<16), IORegion(disk, sector: start, count: 8)])
      }
      #expect(destination == .unaddressable(destination: 1))
    }
  }

  /// Regions that nobody looks at needn't make sense.
  @Test func anEmptySourceIsNotRefused() throws {
    let refusal = try Self.refusal { client, disk, _ in
      let wild = IORegion(disk, sector: Sector(.max - 3), count: 8)
      let result = try await client.copy(
        from: disk.region(0..<0), to: [wild, wild, disk.region(0..<9)])
      #expect(result.isComplete)
    }
    #expect(refusal == nil)
  }

  @Test func destinationsThatOverlap() throws {
    let same = try Self.refusal { client, disk, loop in
      let source = SimulatedDisk("src", sectorCount: 100, loop: loop)
      _ = try await client.copy(
        from: source.region(0..<8),
        to: [disk.region(0..<8), disk.region(40..<48), disk.region(47..<55)])
    }
    #expect(same == .destinationsOverlap(1, 2))
    let aliased = try Self.refusal { client, disk, _ in
      _ = try await client.zero([disk.region(0..<8), Alias(disk).region(7..<15)])
    }
    #expect(aliased == .destinationsOverlap(0, 1))
  }

  @Test func devicesOfWhichOneLiesOnTheOther() throws {
    let refused = try Self.refusal { client, disk, loop in
      let own = SimulatedDisk("own", sectorCount: 40, loop: loop)
      let partition = Alias(own, on: disk, 60..<100)
      _ = try await client.copy(
        from: partition.region(8..<16), to: [own.region(20..<28), disk.region(70..<78)])
    }
    #expect(refused == .sourceLiesOnDestination(1))
    let both = try Self.refusal { client, disk, loop in
      let own = SimulatedDisk("own", sectorCount: 40, loop: loop)
      let partition = Alias(own, on: disk, 60..<100)
      _ = try await client.zero([disk.region(60..<64), partition.region(3..<7)])
    }
    #expect(both == .destinationsOverlap(0, 1))
  }

  @Test func aSourceThatOverlapsBothWays() throws {
    let refusal = try Self.refusal { client, disk, _ in
      _ = try await client.copy(
        from: disk.region(20..<30), to: [disk.region(12..<22), Alias(disk).region(28..<38)])
    }
    #expect(refusal == .sourceOverlapsBothWays)
  }

  @Test func ascendingOrderOverASourceFromAbove() throws {
    let asked = try Self.refusal { client, disk, _ in
      _ = try await client.copy(
        from: disk.region(20..<30), to: [disk.region(25..<35)], options: .sequentialWrites)
    }
    #expect(asked == .sequentialWritesOverlap)
    let zoned = try Self.refusal { client, disk, loop in
      let other = SimulatedDisk("zoned", sectorCount: 100, loop: loop, limits: .zoned)
      _ = try await client.copy(
        from: disk.region(20..<30), to: [disk.region(25..<35), other.region(0..<10)])
    }
    #expect(zoned == .sequentialWritesOverlap)
  }

  @Test func aReserveBelowOneSubJob() throws {
    let refusal = try Self.refusal { _, _, loop in
      _ = try KcopydClient(pages: 2, subJob: 17, on: loop)
    }
    #expect(refusal == .reserveBelowSubJob(pages: 2, needed: 3))
    let standard = try Self.refusal { _, _, loop in _ = try KcopydClient(pages: 127, on: loop) }
    #expect(standard == .reserveBelowSubJob(pages: 127, needed: 128))
  }

  @Test func aReserveThatNoSystemHas() throws {
    let refusal = try Self.refusal { _, _, loop in
      _ = try KcopydClient(pages: Int.max / 4096, on: loop)
    }
    #expect(refusal == .noMemory(pages: Int.max / 4096))
  }

  @Test func everyRefusalIsOneLine() {
    let all: [KcopydError] = [
      .noDestinations, .tooManyDestinations(65), .unequalCounts(destination: 1),
      .unaddressable(destination: nil), .unaddressable(destination: 2), .destinationsOverlap(0, 1),
      .sourceOverlapsBothWays, .sourceLiesOnDestination(2), .sequentialWritesOverlap,
      .reserveBelowSubJob(pages: 1, needed: 2),
      .noMemory(pages: 3), .destroyed,
    ]
    #expect(all.allSatisfy { !$0.description.isEmpty && !$0.description.contains("\n") })
    #expect(Set(all.map(\.description)).count == all.count)
  }
}
