import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots
import Testing

/// What a snapshot is for: it shows its point in time, whatever happens to the origin.
@Suite struct SnapshotTests {
  @Test func keepsWhatTheOriginLoses() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 256, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 512, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      try await origin.device.put("new", 3..<30)
      try await snapshot.put("mine", 100..<120)
      let seen = try await snapshot.contents(0..<256)
      #expect(
        seen == patterns(("origin", 0..<100), ("mine", 100..<120), ("origin", 120..<256)))
      let below = try await origin.device.contents(0..<256)
      #expect(below == patterns(("origin", 0..<3), ("new", 3..<30), ("origin", 30..<256)))
      let status = await snapshot.status
      #expect(status.line == "72/512 16")

      let again = try Origin(disk, on: loop)
      let reopened = try await again.addSnapshot(cow: cow, parameters: .persistent(16))
      #expect(try await reopened.contents(0..<256) == seen)
      #expect(await reopened.status.line == "72/512 16")
      #expect(await reopened.tableWords == "P 8")
    }
  }

  @Test func severalSnapshotsWithOneReading() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 256, loop: loop)
      let origin = try Origin(disk, on: loop)
      var snapshots: [SnapshotDevice] = []
      for size in [8, 32, 8, 16] as [Sector] {
        let cow = SimulatedDisk("cow", sectorCount: 512, content: .zeroes, loop: loop)
        let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(size))
        try await snapshot.resume()
        snapshots.append(snapshot)
      }
      disk.clearLog()
      try await origin.device.put("new", 40..<41)
      let read = disk.log.filter { $0.operation == .read }.compactMap(\.sectors)
      #expect(read.reduce(Sector.zero) { $0 + $1.length } == 32)
      for snapshot in snapshots {
        #expect(try await snapshot.contents(0..<256) == patterns(("origin", 0..<256)))
      }
    }
  }

  /// Who takes an overflowed snapshot over can only read it, too.
  @Test func anOverflowIsHandedOver() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 24, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      var parameters = SnapshotParameters.persistent(8)
      parameters.store = .persistentWithOverflow
      let first = try await origin.addSnapshot(cow: cow, parameters: parameters)
      try await first.resume()
      try await first.put("mine", 0..<8)
      await #expect(throws: IOFailure.self) { try await first.put("mine", 8..<16) }
      #expect(await first.status.line == "Overflow")
      let second = try await origin.addSnapshot(cow: cow, parameters: parameters)
      await first.suspend()
      try await second.resume()
      #expect(await second.status.line == "Overflow")
      await #expect(throws: IOFailure.self) { try await second.put("mine", 0..<8) }
      let seen = try await second.contents(0..<64)
      #expect(seen == patterns(("mine", 0..<8), ("origin", 8..<64)))
    }
  }

  /// No snapshot gets a copy of what is discarded like that.
  @Test(arguments: [false, true])
  func discardsArePassedDown(isPassedDown: Bool) throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 128, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      var parameters = SnapshotParameters.persistent(8)
      parameters.discardZeroesCow = true
      parameters.discardPassdownOrigin = isPassedDown
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: parameters)
      try await snapshot.resume()
      try await snapshot.put("mine", 0..<8)
      try await snapshot.discard(0..<24)
      #expect(try await snapshot.contents(0..<8).allSatisfy { $0 == 0 })
      #expect(await snapshot.status.exceptions == 1)
      let discarded = disk.log.filter { $0.operation == .discard }.map(\.sectors)
      #expect(discarded == (isPassedDown ? [0..<24] : []))
    }
  }

  @Test func growsUpToItsLimit() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 24, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      var parameters = SnapshotParameters.persistent(8)
      parameters.growthLimit = 44
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: parameters)
      try await snapshot.resume()
      try await origin.device.put("new", 0..<24)
      #expect(await snapshot.status.line == "40/44 16")
      try await origin.device.put("new", 24..<25)
      #expect(await snapshot.status.line == "Invalid")
      #expect(cow.sectorCount == 44)
    }
  }

  /// A write that waits for its first chunk while another one grows the COW device for the second,
  /// and last, one: it isn't in want of room any more, and nothing is given up.
  @Test func roomThatOthersHaveMadeIsEnough() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 16, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 28, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      var parameters = SnapshotParameters.persistent(8)
      parameters.growthLimit = 36
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: parameters)
      try await snapshot.resume()
      async let both: Void = origin.device.put("both", 0..<16)
      async let second: Void = origin.device.put("second", 8..<16)
      _ = try await (both, second)
      #expect(await snapshot.status.line == "32/36 16")
    }
  }

  @Test func mergesBack() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 4096, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 8192, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      try await snapshot.put("mine", 100..<3000)
      try await origin.device.put("new", 0..<5)
      let expected = try await snapshot.contents(0..<4096)
      await snapshot.remove()
      let merge = try await origin.addMerge(cow: cow)
      try await merge.resume()
      #expect(try await merge.contents(0..<4096) == expected)
      await merge.waitUntilEnded()
      #expect(await merge.status.line == "16/8192 16")
      #expect(disk.contents == expected)
    }
  }
}
