import BlockIO
@testable import BlockIOTesting
import DeviceMapperTesting
import Testing

/// Thousands of random runs of a mirror, each checked sector by sector.
@Suite struct MirrorSimulationTests {
  /// The seeds are dealt out, so that all processors have something to do.
  private static let shards: UInt64 = 4

  @Test(arguments: 0..<shards)
  func nothingIsLostAndAllLegsAreTheSame(shard: UInt64) {
    var failures = 0
    for seed in seeds(5_000) where seed % Self.shards == shard && failures < 5 {
      do {
        try Self.run(seed)
      } catch {
        failures += 1
        Issue.record(SeedFailure(seed: seed, underlying: error))
      }
    }
  }

  /// Otherwise a seed would be of no use.
  @Test func theSameSeedDoesTheSame() throws {
    for seed in UInt64(0)..<20 {
      let logs = try (0..<2).map { _ in
        try simulate { loop in
          let world = MirrorWorld(MirrorPlan(seed: seed), on: loop)
          try await world.run()
          return world.disks.map(\.log)
        }
      }
      #expect(logs[0] == logs[1], "seed \(seed)")
    }
  }

  static func run(
    _ seed: UInt64, _ bounds: MirrorPlan.Bounds = .everything, sabotage: MirrorSabotage = .none
  ) throws {
    let plan = MirrorPlan(seed: seed, bounds)
    try simulate { loop in try await MirrorWorld(plan, sabotage: sabotage, on: loop).run() }
  }
}
