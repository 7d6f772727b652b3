import BlockIO
import BlockIOTesting
import Imaging
import Testing

/// The order of work without I/O: a source is a set of bad sectors.
@Suite struct RescuePlanTests {
  /// Reads as the plan wants, each read ending at a random moment, until it is done.
  static func carryOut(
    _ plan: inout RescuePlan, bad: RangeSet<Sector>, random: SeededRandom = SeededRandom(seed: 1),
    limit: Int = .max, lie: Sector = 0
  ) -> [Range<Sector>] {
    var random = random
    var reads: [Range<Sector>] = []
    var flight: [Range<Sector>] = []
    while reads.count < limit {
      let step = plan.next()
      if case .read(let range) = step {
        reads.append(range)
        flight.append(range)
        if random.chance(1, in: 2) { continue }
      }
      guard !flight.isEmpty else { break }
      let range = flight.remove(at: Int(random.next(upperBound: UInt64(flight.count))))
      let first = bad.intersection(RangeSet(range)).ranges.first?.lowerBound ?? range.upperBound
      plan.finish(range, good: min(range.length, first - range.lowerBound + lie))
    }
    return reads
  }

  struct Case {
    var domain: Range<Sector>
    var count: Sector
    var options: RescuePlan.Options
    var bad = RangeSet<Sector>()

    init(_ random: inout SeededRandom) {
      count = Sector(1 + random.next(upperBound: UInt64(400)))
      domain = random.range(in: 0..<count, longest: count)
      options = RescuePlan.Options(count: count, block: random.element(of: [1, 1, 4, 8]))
      options.cluster = max(options.block, random.element(of: [1, 8, 16, 24]))
      options.initialSkip = random.element(of: [0, 4, 16])
      options.maximumSkip = max(options.initialSkip, 64)
      options.readsInFlight = 1 + Int(random.next(upperBound: UInt64(6)))
      options.retries = Int(random.next(upperBound: UInt64(3)))
      for _ in 0..<random.next(upperBound: UInt64(6)) {
        bad.insert(random.range(in: 0..<count, longest: 40))
      }
    }

    /// What can't be read, a block at a time.
    var lost: RangeSet<Sector> {
      var lost = RangeSet<Sector>()
      let block = options.block.rawValue
      for range in bad.ranges {
        let start = Sector(range.lowerBound.rawValue / block * block)
        let end = Sector((range.upperBound.rawValue + block - 1) / block * block)
        lost.insert((start..<end).clamped(to: domain))
      }
      // A block that is cut by the end of the domain has its other sectors outside.
      return RangeSet(
        lost.ranges.flatMap { range in
          stride(from: range.lowerBound.rawValue, to: range.upperBound.rawValue, by: 1)
            .map { Sector($0)..<Sector($0 + 1) }
        }.filter { sector in
          let start = Sector(sector.lowerBound.rawValue / block * block)
          let whole = (start..<start + options.block).clamped(to: domain)
          return !bad.intersection(RangeSet(whole)).isEmpty
        })
    }
  }

  static func check(_ seed: UInt64, lie: Sector = 0) throws {
    var random = SeededRandom(seed: seed)
    let world = Case(&random)
    var plan = RescuePlan(
      StatusMap(count: world.count), domain: world.domain, options: world.options)
    let reads = carryOut(&plan, bad: world.bad, random: random.split(), lie: lie)
    let all = RangeSet(world.domain)
    try ensure(plan.phase == .finished, "ended while \(plan.phase)")
    try ensure(
      plan.map.sectors([.finished], in: world.domain) == all.subtracting(world.lost),
      "read \(plan.map.sectors([.finished], in: world.domain)), lost \(world.lost)")
    try ensure(
      plan.map.sectors([.badSector], in: world.domain) == world.lost, "other bad sectors")
    try ensure(reads.allSatisfy { world.domain.contains($0.lowerBound) }, "outside of the domain")
    // Not more often than ddrescue: large, by itself, and once in each retry.
    for sector in world.lost.ranges.map(\.lowerBound) {
      let tries = reads.count { $0.contains(sector) }
      let most = 2 + (world.options.retries ?? 0)
      try ensure(tries <= most, "sector \(sector) tried \(tries) times")
      try ensure(
        reads.contains { $0.contains(sector) && $0.length <= world.options.block },
        "sector \(sector) is called bad and was never read by itself")
    }
  }

  @Test func `everything readable is read, and exactly the rest is bad`() throws {
    try forEachSeed(800) { seed in try Self.check(seed) }
  }

  @Test func `a sector that is forgotten is noticed`() {
    var caught = 0
    for seed in UInt64(0)..<40 where (try? Self.check(seed, lie: 1)) == nil { caught += 1 }
    #expect(caught > 10)
  }

  @Test func `cut off anywhere, it goes on to the same end`() throws {
    try forEachSeed(150) { seed in
      var random = SeededRandom(seed: seed)
      let world = Case(&random)
      var map = StatusMap(count: world.count)
      var (phase, pass, position) = (RescuePhase.copying, 1, Sector?.none)
      for round in 0..<200 {
        var plan = RescuePlan(
          map, domain: world.domain, phase: phase, pass: pass, position: position,
          options: world.options)
        let limit = round < 150 ? 1 + Int(random.next(upperBound: UInt64(8))) : .max
        _ = Self.carryOut(&plan, bad: world.bad, random: random.split(), limit: limit)
        // Through the text of a mapfile.
        let size = world.count.bytes - 100
        let mapfile = Mapfile(
          position: min(size, plan.position.bytes), phase: plan.phase, pass: plan.pass,
          blocks: plan.map.blocks(byteCount: size))
        let again = try Mapfile(parsing: Array(mapfile.text.utf8))
        map = StatusMap(again, byteCount: size)
        try ensure(map == plan.map, "another map after a round through its text")
        (phase, pass) = (again.phase, again.pass)
        position = again.position < size ? Sector(again.position / 512) : world.count
        if plan.phase == .finished { break }
      }
      try ensure(phase == .finished, "never finished")
      try ensure(
        map.sectors([.badSector], in: world.domain) == world.lost,
        "bad: \(map.sectors([.badSector], in: world.domain)) instead of \(world.lost)")
    }
  }

  @Test func `the order is ddrescue's`() {
    var options = RescuePlan.Options(block: 1)
    options.cluster = 16
    options.initialSkip = 32
    options.maximumSkip = 64
    options.readsInFlight = 1
    var plan = RescuePlan(StatusMap(count: 256), domain: 0..<256, options: options)
    let reads = Self.carryOut(&plan, bad: RangeSet(50..<54 as Range<Sector>))
    // Forwards to the error, over what is skipped behind it, to the end; backwards over the gap.
    let expected: [Range<Sector>] = [
      0..<16, 16..<32, 32..<48, 48..<64, 96..<112, 112..<128, 128..<144, 144..<160, 160..<176,
      176..<192, 192..<208, 208..<224, 224..<240, 240..<256, 80..<96, 64..<80,
      // Trimmed from both edges: what had been read before the error is used.
      50..<51, 63..<64, 62..<63, 61..<62, 60..<61, 59..<60, 58..<59, 57..<58, 56..<57, 55..<56,
      54..<55, 53..<54,
      // Scraped between them.
      51..<52, 52..<53,
    ]
    #expect(reads == expected)
  }

  @Test func `skips grow, and slow areas are left for the third pass`() {
    var options = RescuePlan.Options(block: 1)
    options.cluster = 8
    options.initialSkip = 8
    options.maximumSkip = 32
    options.readsInFlight = 1
    var plan = RescuePlan(StatusMap(count: 400), domain: 0..<400, options: options)
    var starts: [UInt64] = []
    while plan.pass == 1, case .read(let range) = plan.next() {
      starts.append(range.lowerBound.rawValue)
      plan.finish(range, good: range.lowerBound < 100 ? 0 : 8)
    }
    #expect(starts.prefix(6) == [0, 16, 40, 80, 120, 128])

    var slow = RescuePlan(StatusMap(count: 64), domain: 0..<64, options: options)
    var passes: [Int] = []
    while case .read(let range) = slow.next() {
      passes.append(slow.pass)
      slow.finish(range, good: 8, wasSlow: true)
    }
    #expect(slow.map.sectors([.finished], in: 0..<64).sectorCount == 64)
    #expect(passes == passes.sorted() && passes.contains(3) && !passes.contains(5))
  }

  @Test func `retries go on without end when that is wanted, and end when all is read`() {
    var options = RescuePlan.Options(block: 1)
    options.retries = nil
    var map = StatusMap(count: 8, .finished)
    map.set(2..<4, .badSector)
    var plan = RescuePlan(map, domain: 0..<8, options: options)
    var reads: [Range<Sector>] = []
    while reads.count < 100, case .read(let range) = plan.next() {
      reads.append(range)
      plan.finish(range, good: reads.count > 90 ? 1 : 0)
    }
    #expect(reads.count == 92)
    #expect(reads.prefix(6) == [2..<3, 3..<4, 3..<4, 2..<3, 2..<3, 3..<4])
    #expect(plan.phase == .finished)
  }
}
