import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Snapshots

/// The map of exceptions does what a dictionary does, in a part of the memory.
@Suite struct RunMapTests {
  /// Runs of a model: keys in order, joined where keys and values both follow each other.
  private static func check(_ map: RunMap, _ model: [UInt64: UInt64], upTo limit: UInt64) throws {
    try ensure(map.count == UInt64(model.count), "\(map.count) keys instead of \(model.count)")
    try ensure(map.isEmpty == model.isEmpty, "empty or not?")
    var seen: [UInt64: UInt64] = [:]
    var end: UInt64 = 0
    var runs = 0
    try map.forEachRun { (run) throws(CheckFailure) in
      try ensure(run.key >= end, "runs out of order at \(run.key)")
      end = run.keys.upperBound
      runs += 1
      for key in run.keys { seen[key] = run.value + (key - run.key) }
    }
    try ensure(seen == model, "other keys or values")
    try ensure(runs == map.runCount, "\(map.runCount) runs instead of \(runs)")
    for key in stride(from: 0, through: limit, by: 7) {
      try ensure(map.value(of: key) == model[key], "another value of \(key)")
    }
  }

  /// Adds keys that aren't there, with the values that follow from them.
  private static func add(
    _ keys: some Sequence<UInt64>, to map: inout RunMap, _ value: (UInt64) -> UInt64
  ) throws {
    for key in keys { try ensure(map.insert(key, value(key)), "key \(key) is there already") }
  }

  /// Small runs of random neighbours put in and taken out again, leaves splitting and going.
  @Test func isADictionary() throws {
    try forEachSeed(12) { seed in
      var random = SeededRandom(seed: seed)
      var map = RunMap()
      var model: [UInt64: UInt64] = [:]
      let limit: UInt64 = seed.isMultiple(of: 2) ? 400 : 6000
      for step in 0..<6000 {
        let key = random.next(upperBound: limit)
        if random.chance(2, in: 3) {
          // Often the value that its neighbours have, too.
          let value = random.chance(3, in: 4) ? key + 1000 : random.next(upperBound: 1 << 56)
          let isNew = model[key] == nil
          if isNew { model[key] = value }
          try ensure(map.insert(key, value) == isNew, "step \(step): key \(key)")
        } else {
          // A few keys as a rule; now and then so many that leaves go.
          let longest: UInt64 = random.chance(1, in: 200) ? limit : 12
          let end = key + random.next(upperBound: longest)
          map.remove(key..<end)
          for gone in key..<end { model[gone] = nil }
        }
        if step.isMultiple(of: 1500) { try Self.check(map, model, upTo: limit) }
      }
      try Self.check(map, model, upTo: limit)
      map.remove(0..<limit)
      try Self.check(map, [:], upTo: limit)
    }
  }

  @Test func findsTheNextRun() throws {
    var map = RunMap()
    try Self.add(100..<110, to: &map) { $0 * 2 }
    try Self.add(200..<210, to: &map) { $0 + 5 }
    #expect(map.runCount == 11)
    #expect(map.run(from: 0)?.keys == 100..<101)
    #expect(map.run(from: 204)?.keys == 204..<210)
    #expect(map.run(from: 204)?.value == 209)
    #expect(map.run(from: 110)?.keys == 200..<210)
    #expect(map.run(from: 210) == nil)
    #expect(map.overlaps(109..<200))
    #expect(!map.overlaps(110..<200))
    #expect(!map.overlaps(205..<205))
    let isNew = map.insert(205, 1)
    #expect(!isNew)
    #expect(map.value(of: 205) == 210)
  }

  // MARK: Long runs

  /// A run ends at 65 536 keys, whichever side it grows on.
  @Test(arguments: [true, false])
  func endsRunsAtTheirLimit(_ isAscending: Bool) throws {
    let count = RunMap.Run.maximumCount + 2
    var map = RunMap()
    try Self.add((0..<count).map { isAscending ? $0 : count - 1 - $0 }, to: &map) { $0 + 7 }
    #expect(map.count == count)
    #expect(map.runCount == 2)
    for key in [0, 1, 2, 65_534, 65_535, 65_536, 65_537] as [UInt64] {
      #expect(map.value(of: key) == key + 7)
    }
    #expect(map.value(of: count) == nil)
    map.remove(1..<count - 1)
    #expect(map.count == 2)
    #expect(map.value(of: 0) == 7)
    #expect(map.value(of: count - 1) == count + 6)
  }

  /// The key between two runs joins them only if one run can hold both.
  @Test(arguments: [(32_768, 32_767, 1), (32_768, 32_768, 2), (65_535, 5, 2), (65_536, 5, 2)])
  func joinsRunsUpToTheLimit(_ before: UInt64, _ after: UInt64, _ runs: Int) throws {
    var map = RunMap()
    try Self.add(0..<before, to: &map) { $0 }
    try Self.add(before + 1..<before + 1 + after, to: &map) { $0 }
    #expect(map.runCount == 2)
    try Self.add(before...before, to: &map) { $0 }
    #expect(map.runCount == runs)
    #expect(map.count == before + after + 1)
    for key in [0, before - 1, before, before + 1, before + after] {
      #expect(map.value(of: key) == key)
    }
  }

  @Test func takesTheLargestNumbers() throws {
    let last = RunMap.Run.limit - 1
    var map = RunMap()
    try Self.add([last, last - 1], to: &map) { $0 }
    #expect(map.runCount == 1)
    #expect(map.value(of: last) == last)
    map.remove(last - 1..<last)
    #expect(map.value(of: last) == last)
    #expect(map.count == 1)
  }

  // MARK: Memory

  /// Exceptions in no order take at most 40 bytes each, those in order 17.
  @Test(arguments: [(false, 17), (true, 40)])
  func boundsItsMemory(_ isShuffled: Bool, _ bytes: Int) throws {
    let count = 100_000
    var keys = Array(0..<UInt64(count))
    var random = SeededRandom(seed: 1)
    if isShuffled { keys.shuffle(using: &random) }
    var map = RunMap()
    // No two values follow each other, so that every key is a run.
    try Self.add(keys, to: &map) { $0 * 2 }
    #expect(map.runCount == count)
    #expect(map.byteCount <= count * bytes)
    // Taken out in another order it doesn't keep what it no longer needs.
    keys.shuffle(using: &random)
    for key in keys { map.remove(key..<key + 1) }
    #expect(map.isEmpty)
    #expect(map.byteCount < 16384)
  }

  /// What follows each other on both sides takes next to nothing.
  @Test func longRunsTakeLittle() throws {
    var map = RunMap()
    try Self.add(0..<200_000, to: &map) { $0 + 2 }
    #expect(map.runCount == 4)
    #expect(map.byteCount < 16384)
  }
}
