import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

/// The checks of the simulation find what is planted.
@Suite struct MirrorCanaryTests {
  /// What the first of some seeds that fails has to say.
  private static func firstFailure(
    _ sabotage: MirrorSabotage, _ bounds: MirrorPlan.Bounds, seeds: UInt64
  ) -> String? {
    for seed in 0..<seeds {
      do {
        try MirrorSimulationTests.run(seed, bounds, sabotage: sabotage)
      } catch {
        return String(describing: error)
      }
    }
    return nil
  }

  /// Runs without errors, many of which end with a loss of power.
  private static var healthy: MirrorPlan.Bounds {
    var bounds = MirrorPlan.Bounds()
    bounds.hasFaults = false
    return bounds
  }

  private static func expectFailure(
    _ words: String..., bounds: MirrorPlan.Bounds = healthy,
    sourceLocation: SourceLocation = #_sourceLocation, _ plant: (inout MirrorSabotage) -> Void
  ) {
    var sabotage = MirrorSabotage()
    plant(&sabotage)
    let failure = firstFailure(sabotage, bounds, seeds: 150) ?? "nothing was found"
    #expect(words.contains { failure.contains($0) }, "\(failure)", sourceLocation: sourceLocation)
  }

  @Test func nothingIsFoundWhereNothingIsPlanted() {
    #expect(Self.firstFailure(.none, .everything, seeds: 60) == nil)
  }

  // MARK: Legs

  @Test func aLegThatLosesWrites() {
    Self.expectFailure("of leg 0", "a read of", "the legs hold", "differs") { sabotage in
      sabotage.faults = { plan, disk in
        if disk == .leg(1) { plan.lie(.lostWrite, 10..<30) }
      }
    }
  }

  @Test func aLegThatReadsSomethingElse() {
    Self.expectFailure("a read of", "differs") { sabotage in
      sabotage.faults = { plan, disk in
        if disk == .leg(1) { plan.lie(.corruptRead, 10..<30) }
      }
    }
  }

  /// What was called clean wasn't durable.
  @Test(arguments: [0, 1])
  func aLegThatIgnoresFlushes(leg: Int) {
    Self.expectFailure("is clean in the log", "the legs hold", "although") { sabotage in
      sabotage.faults = { plan, disk in
        if disk == .leg(leg) { plan.ignoresFlushes = true }
      }
    }
  }

  @Test func aLegThatIgnoresDurability() {
    Self.expectFailure("the legs hold", "a read of") { sabotage in
      sabotage.device = { disk, which in
        which == .leg(0) ? ForgetfulDisk(disk) as any BlockDevice : disk
      }
    }
  }

  // MARK: The log

  /// Data may be there before their regions are dirty.
  @Test func aLogThatIgnoresFlushes() {
    Self.expectFailure("is clean in the log", "although") { sabotage in
      sabotage.faults = { plan, disk in
        if disk == .log { plan.ignoresFlushes = true }
      }
    }
  }

  @Test func aLogWhoseWritesAreLost() {
    var bounds = Self.healthy
    bounds.start = .same
    bounds.hasDisk = true
    Self.expectFailure("is clean in the log", "aren't clean", bounds: bounds) { sabotage in
      // Where the bits are.
      sabotage.faults = { plan, disk in
        if disk == .log { plan.lie(.lostWrite, 2..<3) }
      }
    }
  }

  @Test func aLogThatSaysEverythingIsClean() {
    var bounds = Self.healthy
    bounds.hasDisk = true
    Self.expectFailure("is clean in the log", bounds: bounds) { sabotage in
      sabotage.afterPhase = { _, log in
        log?.fill(from: 2, [UInt8](repeating: 0xff, count: 512))
      }
    }
  }

  // MARK: Others

  @Test func someoneWhoWritesToALegDirectly() {
    Self.expectFailure("a read of", "of leg 0", "differs") { sabotage in
      sabotage.afterWrite = { legs, sectors in
        guard sectors.upperBound < legs[1].sectorCount else { return }
        let other = Version(rawValue: 2_000_000).bytes(sectors.upperBound..<sectors.upperBound + 1)
        legs[1].fill(from: sectors.upperBound, other)
      }
    }
  }

  @Test func someoneWhoWritesWhileNothingRuns() {
    Self.expectFailure("a read of", "the legs hold", "although") { sabotage in
      sabotage.afterPhase = { legs, _ in
        legs[0].fill(from: 12, Version(rawValue: 2_000_000).bytes(12..<13))
      }
    }
  }
}
