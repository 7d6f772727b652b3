import BlockIO
@testable import BlockIOTesting
import Testing

@Suite struct RescueSimulationTests {
  private static let shards: UInt64 = 4

  @Test(arguments: 0..<shards)
  func `every run leaves what it says, with a crash anywhere`(_ shard: UInt64) {
    var failures = 0
    for seed in seeds(500) where seed % Self.shards == shard && failures < 3 {
      do {
        var random = SeededRandom(seed: seed &* 77)
        let point = random.chance(3, in: 4) ? Int(random.next(upperBound: UInt64(150))) : nil
        _ = try RescueWorld(seed: seed, crashPoint: point).run()
      } catch {
        failures += 1
        Issue.record(SeedFailure(seed: seed, underlying: error))
      }
    }
  }

  @Test(arguments: [3, 17, 41] as [UInt64])
  func `a crash at every write, flush and step of the map`(_ seed: UInt64) throws {
    let operations = try RescueWorld(seed: seed).run()
    #expect(operations > 15)
    for point in 0..<operations {
      do {
        _ = try RescueWorld(seed: seed, crashPoint: point).run()
      } catch {
        Issue.record("seed \(seed), crash point \(point): \(error)")
        return
      }
    }
  }

  @Test(
    arguments: [.lyingFlush, .forgottenSector, .lostWrite, .dirtyBlank] as [RescueWorld.Sabotage])
  func `what is done wrong is found`(_ sabotage: RescueWorld.Sabotage) {
    var found = 0
    for seed in UInt64(0)..<40 {
      do {
        _ = try RescueWorld(
          seed: seed, crashPoint: 30 + Int(seed) * 2, sabotage: sabotage
        ).run()
      } catch {
        found += 1
      }
    }
    #expect(found > 5)
  }
}
