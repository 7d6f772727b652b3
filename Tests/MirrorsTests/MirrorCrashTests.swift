import BlockIO
@testable import BlockIOTesting
import DeviceMapperTesting
import Testing

/// A loss of power at every single write, discard and flush of some runs.
@Suite struct MirrorCrashTests {
  /// What the runs are about.
  enum Scenario: CaseIterable, Sendable {
    /// I/O to a mirror that is in sync.
    case inSync
    /// I/O while legs are brought into sync.
    case recovery
    /// More legs, more regions, a log in memory.
    case memoryLog
    /// Other legs than the first fail before, which is the one that is trusted afterwards.
    case errors
    /// Any leg fails before, and a sidecar keeps which one is right.
    case sidecar
    /// The same with a log in memory: everything is copied from the leg that is right.
    case sidecarAlone

    var bounds: MirrorPlan.Bounds {
      var bounds = MirrorPlan.Bounds()
      bounds.isCutOff = true
      let hasSidecar = self == .sidecar || self == .sidecarAlone
      bounds.hasFaults = self == .errors || hasSidecar
      bounds.hasDisk = self != .memoryLog && self != .sidecarAlone
      bounds.hasSidecar = hasSidecar
      bounds.start = self == .inSync || hasSidecar ? .same : .different
      bounds.phases = 1
      bounds.legs = self == .memoryLog ? 3 : 2
      bounds.regions = 6
      bounds.steps = 4
      return bounds
    }
  }

  /// How many operations there are.
  @discardableResult
  private static func run(
    _ scenario: Scenario, _ seed: UInt64, crashPoint: Int?
  ) throws -> Int {
    var plan = MirrorPlan(seed: seed, scenario.bounds)
    if let crashPoint {
      // Recovery and what goes on meanwhile are interrupted again, here or there.
      var random = SeededRandom(seed: UInt64(crashPoint))
      var second = plan.phases[0]
      second.changes = []
      second.crashAfter = random.duration(in: .zero ... .milliseconds(12))
      second.legFaults = plan.offsets.map { _ in FaultPlan() }
      second.logFaults = FaultPlan()
      plan.phases.append(second)
    }
    let final = plan
    do {
      return try simulate { loop in
        let world = MirrorWorld(final, crashPoint: crashPoint, on: loop)
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
      try ensure(operations > 3, "only \(operations) operations")
      for crashPoint in 0..<operations { try Self.run(scenario, seed, crashPoint: crashPoint) }
    }
  }
}
