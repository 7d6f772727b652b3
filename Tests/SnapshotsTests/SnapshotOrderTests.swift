import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots
import Testing

/// What must have happened before what, seen in the disks' logs.
@Suite struct SnapshotOrderTests {
  /// A COW device with room for header, area and `chunks` chunks of 8 sectors.
  private static func cow(_ chunks: UInt64, _ loop: IOLoop, seed: UInt64 = 0) -> SimulatedDisk {
    SimulatedDisk(
      "cow", sectorCount: Sector(8 * (chunks + 2)), content: .zeroes, seed: seed, loop: loop)
  }

  /// While a snapshot is being marked invalid no origin write goes on, also none that came later:
  /// after a loss of power it would be missing in a store that says valid.
  @Test func noWriteOvertakesTheInvalidMark() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = Self.cow(0, loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      cow.plan.slowDown(0..<1, by: .seconds(1))
      cow.clearLog()
      disk.clearLog()
      let device = origin.device
      await withTaskGroup { group in
        for (first, delay) in [(0, 0), (16, 1), (40, 500)] as [(UInt64, Int)] {
          group.addTask(executorPreference: loop) {
            await loop.sleep(for: .milliseconds(delay))
            try? await device.put("new", Sector(first)..<Sector(first + 4))
          }
        }
      }
      #expect(await snapshot.status.line == "Invalid")
      let marked = try #require(cow.log.first { $0.sectors == 0..<1 }?.end)
      let writes = disk.log.filter { $0.operation == .write }
      #expect(writes.count == 3)
      for write in writes { #expect(write.start >= marked) }
    }
  }

  /// A read that was sent to the origin for a snapshot that is lost meanwhile may have got anything.
  @Test func aReadThatSeesTheLossIsRefused() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = Self.cow(0, loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      disk.plan.slowDown(32..<33, by: .seconds(1))
      await withTaskGroup { group in
        group.addTask(executorPreference: loop) {
          _ = await #expect(throws: IOFailure.self) { try await snapshot.contents(32..<40) }
        }
        group.addTask(executorPreference: loop) {
          await loop.sleep(for: .milliseconds(10))
          try? await origin.device.put("new", 0..<1)
        }
      }
    }
  }

  /// An origin write waits for the reads that snapshots had sent to its sectors; so does a second one
  /// to a chunk that the snapshots have by then.
  @Test(arguments: [[32..<40], [32..<34, 36..<40]] as [[Range<Sector>]])
  func aWriteWaitsForReadsBeforeIt(writes: [Range<Sector>]) throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = Self.cow(8, loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      disk.plan.slowDown(37..<38, by: .seconds(1))
      await withTaskGroup { group in
        group.addTask(executorPreference: loop) {
          let seen = try? await snapshot.contents(37..<38)
          #expect(seen == patterns(("origin", 37..<38)))
        }
        group.addTask(executorPreference: loop) {
          await loop.sleep(for: .milliseconds(10))
          disk.plan = FaultPlan()
          for sectors in writes {
            #expect(disk.inFlight == 1)
            try? await origin.device.put("new", sectors)
          }
        }
      }
      let read = try #require(disk.log.first { $0.sectors == 37..<38 }?.end)
      let write = try #require(
        disk.log.first { $0.operation == .write && $0.sectors == writes.last }?.start)
      #expect(write >= read)
    }
  }

  /// Chunk number and place in the list are tied together, as in every store that the kernel wrote
  /// from scratch, whatever the order in which copies end.
  @Test func entriesAreInTheOrderOfAllocation() throws {
    try simulateForEachSeed(20) { seed, loop in
      let disk = SimulatedDisk("origin", sectorCount: 8 * 64, seed: seed, loop: loop)
      let cow = Self.cow(80, loop, seed: seed)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      var random = SeededRandom(seed: seed)
      let chunks = (0..<UInt64(64)).shuffled(using: &random)
      let device = origin.device
      await withTaskGroup { group in
        for (number, chunk) in chunks.enumerated() {
          group.addTask(executorPreference: loop) {
            let target: any BlockDevice = number.isMultiple(of: 3) ? snapshot : device
            let first = Sector(chunk * 8)
            try? await target.put("new", first..<first + (number.isMultiple(of: 2) ? 8 : 3))
          }
        }
      }
      let area = Array(cow.contents[8 * 512..<16 * 512])
      let places = (0..<64).map { index in
        area[index * 16 + 8..<index * 16 + 16].reversed().reduce(0) { $0 << 8 | UInt64($1) }
      }
      try ensure(places == Array(2..<66), "chunks in the list: \(places)")
    }
  }

  /// Held writes wait as long as was said, and then the snapshot is lost; or until there is room.
  @Test(arguments: [nil, .milliseconds(120)] as [Duration?])
  func writesAreHeldForSoLong(roomAfter: Duration?) throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = Self.cow(0, loop)
      let origin = try Origin(disk, on: loop)
      var parameters = SnapshotParameters.persistent(8)
      parameters.whenFull = .hold(atMost: .milliseconds(300))
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: parameters)
      try await snapshot.resume()
      let start = loop.now
      async let write: Void = origin.device.put("new", 0..<8)
      if let roomAfter {
        await loop.sleep(for: roomAfter)
        #expect(await snapshot.status.line == "16/16 16 held 1")
        cow.enlarge(to: 64)
      }
      try await write
      let elapsed = start.duration(to: loop.now)
      // It is looked every 50 ms, and then there is something to be written.
      let expected = roomAfter ?? .milliseconds(300)
      #expect(expected...expected + .milliseconds(60) ~= elapsed, "\(elapsed)")
      #expect(await snapshot.status.line == (roomAfter == nil ? "Invalid" : "24/64 16"))
    }
  }

  /// What a merging device has acknowledged lies on two devices, and a flush covers both.
  @Test func aFlushWhileMergingCoversBothDevices() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = Self.cow(8, loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      try await snapshot.put("mine", 0..<16)
      await snapshot.remove()
      // The merge gets nowhere, and serves.
      disk.plan.fail(.write, 0..<16)
      let merge = try await origin.addMerge(cow: cow)
      try await merge.resume()
      await merge.waitUntilEnded()
      try await merge.put("late", 3..<5)
      try await merge.put("late", 40..<41)
      cow.clearLog()
      disk.clearLog()
      try await merge.flush()
      #expect(cow.count(of: .flush) == 1)
      #expect(disk.count(of: .flush) == 1)
    }
  }
}
