import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// Random copies with holes, zeros, differences and observers, under faults and cancellation.
@Suite struct ContentSimulationTests {
  private static func run(_ seed: UInt64, _ sabotage: ContentRun.Sabotage = .none) throws {
    try simulate { loop in
      var run = ContentRun(seed: seed, sabotage)
      try await run.run(on: loop)
    }
  }

  @Test func everyRunLeavesWhatItSays() throws {
    try forEachSeed(2000) { try Self.run($0) }
  }

  /// The checks find what is planted.
  @Test(arguments: [
    (ContentRun.Sabotage.dirtyIsBlank, "contents of"), (.dataIsHole, "contents of"),
    (.viewsAreMixedUp, "observed"), (.lostWrite, "contents of"),
    (.accountIsWrong, "account"),
  ])
  func canary(_ sabotage: ContentRun.Sabotage, _ words: String) {
    var found: String?
    for seed in UInt64(0)..<200 where found == nil {
      do { try Self.run(seed, sabotage) } catch { found = String(describing: error) }
    }
    #expect(found?.contains(words) ?? false, "\(found ?? "nothing was found")")
  }
}
