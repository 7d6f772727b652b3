import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots
import Testing

/// What the simulation has found, one case each.
@Suite struct SnapshotRegressionTests {
  /// A snapshot that ends before its origin, within a chunk: the origin's sectors behind its end
  /// aren't copied for it, so merging mustn't write them.
  @Test func mergingLeavesAloneWhatLiesBehindTheEnd() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 128, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(
        cow: cow, parameters: .persistent(16), sectorCount: 36)
      try await snapshot.resume()
      try await snapshot.put("mine", 32..<34)
      try await origin.device.put("new", 36..<44)
      await snapshot.remove()

      let merge = try await origin.addMerge(cow: cow, sectorCount: 36)
      let merged = patterns(
        ("origin", 0..<32), ("mine", 32..<34), ("origin", 34..<36), ("new", 36..<44),
        ("origin", 44..<64))
      try await merge.resume()
      #expect(try await merge.contents(0..<64) == merged)
      await merge.waitUntilEnded()
      #expect(disk.contents == merged)
    }
  }

  /// Clearing exceptions fails halfway: they have gone from the disk, although the request failed.
  /// What was then written to the COW device would be lost with it.
  @Test func aMergeThatFailsWhileClearingLosesNoWrite() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      var limits = SimulatedDisk.allCapabilities
      limits.physicalBlock = 4096
      let cow = SimulatedDisk(
        "cow", sectorCount: 128, content: .zeroes, loop: loop, limits: limits)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      try await snapshot.put("mine", 16..<24)
      await snapshot.remove()

      // The entries are in the first sector of the area, which is written: only then it fails.
      cow.plan.fail(.write, 15..<16)
      let merge = try await origin.addMerge(cow: cow)
      try await merge.resume()
      await merge.waitUntilEnded()
      #expect(await merge.status.line == "Merge failed")
      await #expect(throws: IOFailure.self) { try await merge.put("late", 16..<20) }
      try await merge.put("late", 0..<4)
      #expect(try await merge.contents(16..<24) == patterns(("mine", 16..<24)))
      await merge.remove()

      cow.plan = FaultPlan()
      let again = try await Origin(disk, on: loop).addMerge(cow: cow)
      try await again.resume()
      await again.waitUntilEnded()
      #expect(
        disk.contents
          == patterns(
            ("late", 0..<4), ("origin", 4..<16), ("mine", 16..<24), ("origin", 24..<64)))
    }
  }

  /// The same store goes on with another merge of the same process, which must know of all
  /// exceptions that may still be on the disk.
  @Test func aMergeThatHasFailedIsTakenOver() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 128, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      try await snapshot.put("mine", 16..<24)
      await snapshot.remove()

      cow.plan.fail(.write, 8..<9, times: 1)
      let first = try await origin.addMerge(cow: cow)
      try await first.resume()
      await first.waitUntilEnded()
      #expect(await first.status.line == "Merge failed")
      await first.suspend()
      let second = try await origin.addMerge(cow: cow)
      try await second.resume()
      await second.waitUntilEnded()
      #expect(await second.status.line == "16/128 16")
      #expect(await second.status.exceptions == 0)
      try await second.put("late", 20..<24)
      let expected = patterns(
        ("origin", 0..<16), ("mine", 16..<20), ("late", 20..<24), ("origin", 24..<64))
      #expect(disk.contents == expected)
    }
  }

  /// A store was made, but its header never became durable, and that was said. Whoever takes it all
  /// the same must find it after a loss of power.
  @Test func aStoreThatWasMadeInVain() throws {
    try simulateForEachSeed(20) { seed, loop in
      let power = CrashSwitch(seed: seed)
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      var limits = SimulatedDisk.allCapabilities
      limits.supportsFUA = false
      let cow = SimulatedDisk(
        "cow", sectorCount: 128, content: .zeroes, loop: loop, limits: limits, crashSwitch: power)
      // The second flush is that of the header.
      cow.plan.failFlushes(times: 1, after: 1)
      let origin = try Origin(disk, on: loop)
      await #expect(throws: SnapshotError.self) {
        try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      }
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      power.turnOff()
      power.turnOn()
      _ = try await Origin(disk, on: loop).addSnapshot(cow: cow, mustExist: true)
    }
  }

  /// What is known of the content comes from the origin, too, and must not be of a later time.
  @Test func statusOfWhatChangesMeanwhile() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 128, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      disk.plan.slowDown(16..<17, by: .seconds(1))
      await withTaskGroup { group in
        group.addTask(executorPreference: loop) {
          let extents = try? await snapshot.blockStatus(0..<64, limit: 100)
          #expect(extents == [BlockExtent(0..<64, .data)])
        }
        group.addTask(executorPreference: loop) {
          await loop.sleep(for: .milliseconds(10))
          disk.plan = FaultPlan()
          try? await origin.device.put("new", 40..<48)
          // As a device below that gives up what has been copied.
          try? await disk.writeZeroes(40..<48, mayUnmap: true)
        }
      }
    }
  }

  /// A write comes after the snapshot was suspended, while another one takes its store over.
  @Test func aWriteDuringTheHandover() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let cow = SimulatedDisk("cow", sectorCount: 128, content: .zeroes, loop: loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      try await snapshot.resume()
      await snapshot.suspend()
      async let write: Void = snapshot.put("mine", 16..<20)
      await loop.sleep(for: .microseconds(20))
      let merge = try await origin.addMerge(cow: cow)
      try await merge.resume()
      try await write
      await merge.waitUntilEnded()
      #expect(await merge.status.line == "16/128 16")
      #expect(
        disk.contents == patterns(("origin", 0..<16), ("mine", 16..<20), ("origin", 20..<64)))
    }
  }

  /// Two merges into one origin, begun at the same time.
  @Test func onlyOneOfTwoMerges() throws {
    try simulate { loop in
      let disk = SimulatedDisk("origin", sectorCount: 64, loop: loop)
      let origin = try Origin(disk, on: loop)
      var cows: [SimulatedDisk] = []
      for number in 0..<2 {
        let cow = SimulatedDisk("cow\(number)", sectorCount: 128, content: .zeroes, loop: loop)
        cows.append(cow)
        await (try origin.addSnapshot(cow: cow, parameters: .persistent(8))).remove()
      }
      async let first = try? origin.addMerge(cow: cows[0])
      async let second = try? origin.addMerge(cow: cows[1])
      let merges = await [first, second].compactMap(\.self)
      #expect(merges.count == 1)
    }
  }
}
