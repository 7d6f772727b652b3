import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

/// The checks of the simulation find what is planted.
@Suite struct SnapshotCanaryTests {
  /// What the first of some seeds that fails has to say.
  private static func firstFailure(
    _ sabotage: SnapshotSabotage, _ bounds: SnapshotPlan.Bounds = .everything
  ) -> String? {
    for seed in UInt64(0)..<60 {
      do {
        try SnapshotSimulationTests.run(seed, bounds, sabotage: sabotage)
      } catch {
        return String(describing: error)
      }
    }
    return nil
  }

  private static func expectFailure(
    _ words: String..., bounds: SnapshotPlan.Bounds = .everything,
    sourceLocation: SourceLocation = #_sourceLocation, _ plant: (inout SnapshotSabotage) -> Void
  ) {
    var sabotage = SnapshotSabotage()
    plant(&sabotage)
    let failure = firstFailure(sabotage, bounds) ?? "nothing was found"
    #expect(words.contains { failure.contains($0) }, "\(failure)", sourceLocation: sourceLocation)
  }

  @Test func nothingIsFoundWhereNothingIsPlanted() {
    #expect(Self.firstFailure(.none) == nil)
  }

  // MARK: Disks

  @Test(arguments: [true, false])
  func aDiskThatIgnoresFlushes(isOrigin: Bool) {
    Self.expectFailure("holds", "can't be opened") { sabotage in
      sabotage.faults = { plan, isOriginsDisk in
        var plan = plan
        plan.ignoresFlushes = isOriginsDisk == isOrigin
        return plan
      }
    }
  }

  @Test(arguments: [true, false])
  func aDiskThatLosesWrites(isOrigin: Bool) {
    Self.expectFailure("holds", "can't be opened") { sabotage in
      sabotage.faults = { plan, isOriginsDisk in
        var plan = plan
        if isOriginsDisk == isOrigin { plan.lie(.lostWrite, 40..<44) }
        return plan
      }
    }
  }

  @Test(arguments: [true, false])
  func aDiskThatReadsSomethingElse(isOrigin: Bool) {
    Self.expectFailure("holds", "can't be opened") { sabotage in
      sabotage.faults = { plan, isOriginsDisk in
        var plan = plan
        if isOriginsDisk == isOrigin { plan.lie(.corruptRead, 40..<44) }
        return plan
      }
    }
  }

  // MARK: Others

  @Test func someoneWhoWritesToTheOriginDirectly() {
    Self.expectFailure("holds") { sabotage in
      sabotage.afterWrite = { disks, number, sectors in
        guard number == 0 else { return }
        let beside = sectors.upperBound
        if beside < disks[0].sectorCount {
          disks[0].fill(
            from: beside, disks[0].contents(sectors.lowerBound..<sectors.lowerBound + 1))
        }
      }
    }
  }

  @Test func someoneWhoWritesWhileNothingRuns() {
    Self.expectFailure("snapshot", "origin") { sabotage in
      sabotage.afterPhase = { disks in
        disks[0].fill(from: 100, Version(rawValue: 1_000_000).bytes(100..<101))
      }
    }
  }

  @Test func anExceptionThatIsGone() {
    Self.expectFailure("snapshot", "merge") { sabotage in
      sabotage.afterPhase = { disks in
        // The first sector of area 0 with chunks of 8.
        for disk in disks.dropFirst() { disk.fill(from: 8, [UInt8](repeating: 0, count: 512)) }
      }
    }
  }

  @Test func aStoreThatIsCalledValidAgain() {
    var bounds = SnapshotPlan.Bounds()
    bounds.snapshots = 2
    Self.expectFailure("snapshot", bounds: bounds) { sabotage in
      sabotage.afterPhase = { disks in
        for disk in disks.dropFirst() {
          var header = disk.contents(0..<1)
          guard header[0] == 0x53 else { continue }
          header[4] = 1
          disk.fill(header)
        }
      }
    }
  }

  /// A disk that calls everything zeros.
  @Test(arguments: [true, false])
  func aDiskThatKnowsOfNoData(isOrigin: Bool) {
    Self.expectFailure("said to be zeros") { sabotage in
      sabotage.device = { disk, isOriginsDisk in
        isOriginsDisk == isOrigin ? EmptyLookingDisk(disk) as any BlockDevice : disk
      }
    }
  }

  /// A disk that isn't durable although it was asked to be.
  @Test(arguments: [true, false])
  func aDiskThatIgnoresDurability(isOrigin: Bool) {
    Self.expectFailure("holds", "lost, and is valid") { sabotage in
      sabotage.device = { disk, isOriginsDisk in
        isOriginsDisk == isOrigin ? ForgetfulDisk(disk) as any BlockDevice : disk
      }
    }
  }
}

/// A disk that says of everything that it is zeros.
private final class EmptyLookingDisk: ForwardingDevice {
  let underlying: any BlockDevice

  init(_ underlying: any BlockDevice) { self.underlying = underlying }

  func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    [BlockExtent(sectors, .zero)]
  }
}
