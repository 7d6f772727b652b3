import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// How a job is cut, and how its pieces are read and written.
@Suite struct SplittingTests {
  private static func starts(_ log: [LoggedRequest]) -> [Sector] {
    log.compactMap { $0.sectors?.lowerBound }
  }

  @Test func segmentsAreTakenInAscendingOrderEightAtATime() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 300, loop: loop)
      let targets = (0..<2).map { SimulatedDisk("dst\($0)", sectorCount: 300, loop: loop) }
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.copy(
        from: source.region(7..<208), to: [targets[0].region(0..<201), targets[1].region(99..<300)])
      #expect(result.isComplete)
      let reads = source.log.of(.read)
      let expected = (UInt64(0)..<26).map { Sector(7 + 8 * $0) }
      #expect(Self.starts(reads) == expected)
      #expect(reads.allSatisfy { $0.sectors?.length == ($0.sectors?.upperBound == 208 ? 1 : 8) })
      #expect(reads.maximumInFlight == 8)
      // The first eight at once, the others as sub-jobs get free.
      #expect(reads.prefix(8).allSatisfy { $0.start == reads[0].start })
      #expect(reads.dropFirst(8).allSatisfy { $0.start > reads[0].start })
      for (target, shift) in [(targets[0], Sector(0)), (targets[1], 99)] {
        let writes = target.log.of(.write)
        #expect(Self.starts(writes).sorted() == expected.map { $0 - 7 + shift })
        #expect(writes.maximumInFlight <= 8)
        #expect(target.holds(source, from: 7, at: shift..<shift + 201))
      }
      #expect(targets[0].isUntouched(201..<300) && targets[1].isUntouched(0..<99))
    }
  }

  @Test func aJobNoLargerThanASubJobIsOneReadAndOneWrite() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 24, on: loop)
      _ = try await client.copy(from: source.region(3..<27), to: [target.region(3..<27)])
      #expect(source.log.map(\.sectors) == [3..<27])
      #expect(target.log.map(\.sectors) == [3..<27])
      #expect(source.log.of(.read).count == 1 && target.log.of(.write).count == 1)
    }
  }

  @Test(
    arguments: [
      (0, 1024), (8, 8), (1, 1), (1024, 1024), (2048, 2048), (2049, 2048), (1_000_000, 2048),
    ] as [(Sector, Sector)])
  func subJobSizes(asked: Sector, given: Sector) throws {
    try simulate { loop in
      let client = try KcopydClient(subJob: asked, on: loop)
      #expect(client.subJob == given)
      // By default as many pages as keep eight sub-jobs going.
      #expect(client.pageCount == 8 * PagePool.pages(holding: given))
      await client.destroy()
    }
  }

  @Test func destinationsAreWrittenAtOnceAndTheSlowestDecides() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 16, loop: loop)
      let targets = (0..<3).map { number in
        SimulatedDisk(
          "dst\(number)", sectorCount: 16, seed: UInt64(number), loop: loop,
          plan: number == 1 ? .slow(0..<8) : FaultPlan())
      }
      // Pages for one sub-job: the second one waits for the first.
      let client = try KcopydClient(pages: 1, subJob: 8, on: loop)
      let result = try await client.copy(from: source.region, to: targets.map(\.region))
      #expect(result.isComplete)
      let first = targets.compactMap { $0.log.first }
      let read = try #require(source.log.first?.end)
      #expect(first.allSatisfy { $0.start == read })
      #expect(source.log[1].start == first[1].end)
    }
  }

  @Test func nothingIsFlushed() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 100, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 100, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      _ = try await client.copy(from: source.region, to: [target.region])
      _ = try await client.zero([target.region(0..<50)])
      let all = source.log + target.log
      #expect(all.of(.flush).isEmpty && all.allSatisfy { !$0.isDurable })
    }
  }

  @Test func aDestinationOfNoSectorsIsIgnoredAndKeepsItsIndex() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 40, loop: loop)
      let ignored = SimulatedDisk("ign", sectorCount: 40, loop: loop, limits: .zoned)
      let target = SimulatedDisk("dst", sectorCount: 40, loop: loop, plan: .failing(.write, 0..<1))
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.copy(
        from: source.region, to: [ignored.region(40..<40), target.region],
        options: [.ignoreErrors])
      #expect(result.writeErrors == 0b10)
      #expect(result.destinations[0].missing.isEmpty && result.destinations[0].failures.isEmpty)
      #expect(ignored.log.isEmpty)
      // That it is zoned doesn't matter either: the errors are ignored.
      #expect(result.ending == .finished)
      #expect(result.destinations[1].missing == .of(0..<8))
    }
  }

  @Test func sixtyFourDestinations() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 20, loop: loop)
      let targets = (0..<64).map { number in
        SimulatedDisk(
          "d\(number)", sectorCount: 20, seed: UInt64(number), loop: loop,
          plan: number == 63 ? .failing(.write, 16..<20) : FaultPlan())
      }
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.copy(from: source.region, to: targets.map(\.region))
      #expect(result.writeErrors == 1 << 63)
      #expect(targets.dropLast().allSatisfy { $0.holds(source, from: 0, at: 0..<20) })
      #expect(result.destinations[63].missing == .of(16..<20))
    }
  }

  // MARK: Pages

  @Test func aReserveOfOneSubJobIsEnough() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 200, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 200, loop: loop)
      let client = try KcopydClient(pages: 3, subJob: 20, on: loop)
      let result = try await client.copy(from: source.region, to: [target.region])
      #expect(result.isComplete && target.holds(source, from: 0, at: 0..<200))
      #expect((source.log + target.log).maximumInFlight == 1)
      await client.destroy()
    }
  }

  @Test func whoWaitsForPagesIsServedInOrder() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop, plan: .slow(0..<8))
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(pages: 2, subJob: 16, on: loop)
      // One page is free all the time, but the second job needs two and the third is behind it.
      for sectors in [Sector(0)..<8, 8..<24, 24..<32] {
        try client.copy(from: source.region(sectors), to: [target.region(sectors)]) { _ in }
      }
      await client.destroy()
      #expect(source.log.map(\.sectors) == [0..<8, 8..<24, 24..<32])
      #expect(source.log.maximumInFlight == 1)
    }
  }

  @Test func zeroingAndPreparedCallbacksNeedNoPages() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 8, loop: loop, plan: .slow(0..<8))
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop, limits: .withoutZeroing)
      let client = try KcopydClient(pages: 1, subJob: 8, on: loop)
      let order = Locked<[String]>([])
      try client.copy(from: source.region, to: [target.region(0..<8)]) { _ in
        order.withLock { $0.append("copy") }
      }
      try client.zero([target.region(8..<64)]) { _ in order.withLock { $0.append("zero") } }
      await client.destroy()
      #expect(order.value == ["zero", "copy"])
      #expect(target.isZero(8..<64))
    }
  }
}
