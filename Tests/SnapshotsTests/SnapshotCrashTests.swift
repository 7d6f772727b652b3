import BlockIO
@testable import BlockIOTesting
import DeviceMapperTesting
import Testing

/// A loss of power at every single write, zeroing, discard and flush of some runs.
@Suite struct SnapshotCrashTests {
  /// What the runs are about.
  enum Scenario: CaseIterable, Sendable {
    /// One snapshot.
    case one
    /// Several of them, with different chunks.
    case several
    /// COW devices that run full: marking a store invalid is interrupted, too.
    case full
    /// A merge, with I/O to the merging device and other snapshots.
    case merge
    /// So many exceptions at once that a commit may be torn.
    case torn
    /// Requests that fail, and then the power goes.
    case errors

    var bounds: SnapshotPlan.Bounds {
      var bounds = SnapshotPlan.Bounds()
      bounds.hasCrashes = false
      bounds.hasFaults = self == .errors
      bounds.runsFull = self == .full
      bounds.isPersistent = true
      bounds.size = self == .torn ? .medium : .small
      bounds.merges = self == .torn ? nil : self == .merge
      bounds.phases = 1
      bounds.snapshots = self == .one || self == .torn ? 1 : 3
      bounds.steps = self == .torn ? 14 : 8
      return bounds
    }
  }

  /// How many operations there are.
  @discardableResult
  private static func run(
    _ scenario: Scenario, _ seed: UInt64, crashPoint: Int?
  ) throws -> Int {
    var plan = SnapshotPlan(seed: seed, scenario.bounds)
    if let crashPoint {
      // What goes on after the first one is interrupted again, here or there.
      var second = SnapshotPlan(seed: seed &+ UInt64(crashPoint) &* 31, scenario.bounds).phases[0]
      var random = SeededRandom(seed: UInt64(crashPoint))
      second.lives = plan.snapshots.map { _ in [] }
      second.crashAfter = random.duration(in: .zero ... .milliseconds(12))
      second.originFaults = FaultPlan()
      second.cowFaults = plan.snapshots.map { _ in FaultPlan() }
      second.lanes = plan.phases[0].lanes
      plan.phases.append(second)
    }
    let final = plan
    do {
      return try simulate { loop in
        let world = SnapshotWorld(final, crashPoint: crashPoint, on: loop)
        try await world.run()
        return world.power.operations
      }
    } catch {
      throw CheckFailure("crash at \(crashPoint.map(String.init) ?? "no point"): \(error)")
    }
  }

  @Test(arguments: Scenario.allCases)
  func atEveryOperation(scenario: Scenario) throws {
    try forEachSeed(4) { seed in
      let operations = try Self.run(scenario, seed, crashPoint: nil)
      try ensure(operations > 4, "only \(operations) operations")
      for crashPoint in 0..<operations { try Self.run(scenario, seed, crashPoint: crashPoint) }
    }
  }
}
