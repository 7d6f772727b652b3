import BlockIO
import BlockIOTesting
@testable import Imaging
import Testing

@Suite struct StraightPlanTests {
  @Test func `windows cover what isn't finished once, and hold at most so much data`() throws {
    try forEachSeed(200) { seed in
      var random = SeededRandom(seed: seed)
      let count: Sector = 20_000
      let domain = random.range(in: 0..<count, longest: count)
      var map = StatusMap(count: count)
      var holes = RangeSet<Sector>()
      for _ in 0..<random.next(upperBound: UInt64(6)) {
        map.set(random.range(in: 0..<count, longest: 4000), .finished)
        holes.insert(random.range(in: 0..<count, longest: 8000))
      }
      let window: Sector = random.element(of: [1, 64, 1000])
      var plan = StraightPlan(map, domain: domain, holes: holes, window: window)
      var seen = map.sectors([.finished], in: domain)
      var position = Sector.zero
      while case .read(let range) = plan.next() {
        try ensure(range.lowerBound >= position && !range.isEmpty, "\(range) after \(position)")
        position = range.upperBound
        let all = RangeSet(range)
        let data = all.subtracting(holes).sectorCount
        try ensure(data <= window, "\(data) sectors of data")
        try ensure(range.length <= window * StraightPlan.holePart, "too long: \(range)")
        try ensure(seen.intersection(all).isEmpty, "\(range) once more")
        seen.insert(range)
        plan.finish(copied: all, failed: RangeSet(), after: .zero)
      }
      try ensure(plan.isFinished && seen == RangeSet(domain), "left: \(seen)")
    }
  }

  @Test func `who observes gets one window after the other, and what is finished, too`() {
    var map = StatusMap(count: 100)
    map.set(20..<50, .finished)
    var plan = StraightPlan(map, domain: 10..<90, window: 1000, isObserved: true)
    #expect(plan.next() == .read(10..<90))
    #expect(plan.next() == .done)
    plan = StraightPlan(map, domain: 10..<90, window: 30, isObserved: true)
    #expect(plan.next() == .read(10..<40))
    #expect(plan.next() == .wait)
    plan.finish(copied: RangeSet(10..<40), failed: RangeSet(), after: .zero)
    #expect(plan.next() == .read(40..<70))
  }

  @Test func `a hole takes few windows`() {
    let hole = RangeSet(Sector(100)..<Sector(holding: 64 << 30))
    let count = Sector(holding: 64 << 30) + 100
    var plan = StraightPlan(
      StatusMap(count: count), domain: 0..<count, holes: hole, window: Sector(holding: 32 << 20))
    var windows = 0
    while case .read(let range) = plan.next() {
      windows += 1
      plan.finish(copied: RangeSet(range), failed: RangeSet(), after: .zero)
    }
    #expect(windows < 80)
  }
}
