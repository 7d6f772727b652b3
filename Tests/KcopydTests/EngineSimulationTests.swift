import BlockIO
@testable import BlockIOTesting
import Kcopyd
import Testing

/// Thousands of random runs of the engine, each checked against what the disks must hold.
@Suite struct EngineSimulationTests {
  /// The seeds are dealt out, so that all processors have something to do.
  private static let shards: UInt64 = 4

  @Test(arguments: 0..<shards)
  func everyRunLeavesWhatItSays(shard: UInt64) {
    var failures = 0
    for seed in seeds(10_000) where seed % Self.shards == shard && failures < 5 {
      do {
        try Self.run(seed)
      } catch {
        failures += 1
        Issue.record(SeedFailure(seed: seed, underlying: error))
      }
    }
  }

  static func run(_ seed: UInt64, sabotage: Sabotage = .none) throws {
    let plan = SimulationPlan(seed: seed)
    try simulate { loop in
      try await SimulationWorld(plan, sabotage: sabotage, on: loop).run()
    }
  }
}
