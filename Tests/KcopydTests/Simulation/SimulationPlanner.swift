import BlockIO
@testable import BlockIOTesting
import Kcopyd

extension SimulationPlan {
  /// The plan of a seed.
  init(seed: UInt64) {
    var planner = SimulationPlanner(seed: seed)
    self = planner.makePlan()
  }
}

/// Draws a plan.
struct SimulationPlanner {
  private var random: SeededRandom
  private var plan = SimulationPlan()

  init(seed: UInt64) { random = SeededRandom(seed: seed) }

  mutating func makePlan() -> SimulationPlan {
    drawDisks()
    drawClients()
    var jobs = 1 + pick(random.chance(1, in: 4) ? 12 : 5)
    for lane in plan.lanes.indices {
      let isLast = lane == plan.lanes.count - 1
      let share = isLast ? jobs : min(jobs, pick(jobs + 1))
      jobs -= share
      for number in 0..<share {
        let job = drawJob(lane: lane, isFirst: number == 0)
        plan.lanes[lane].jobs.append(job)
      }
    }
    for _ in 0..<pick(3) { plan.prepared.append(drawPrepared()) }
    return plan
  }

  // MARK: Helpers

  /// A number below `bound`.
  private mutating func pick(_ bound: Int) -> Int { Int(random.next(upperBound: UInt64(bound))) }

  private mutating func sectors(_ range: ClosedRange<UInt64>) -> Sector {
    Sector(range.lowerBound + random.next(upperBound: range.upperBound - range.lowerBound + 1))
  }

  private mutating func microseconds(_ bound: Int) -> Duration { .microseconds(pick(bound)) }

  // MARK: Disks and clients

  private mutating func drawDisks() {
    let lanes = 1 + pick(3)
    let isLarge = random.chance(1, in: 3)
    let shared = sectors(isLarge ? 64...160 : 8...64)
    let sizes = (0..<lanes).map { _ in sectors(isLarge ? 160...280 : 40...140) }
    var starts: [Sector] = []
    var position = shared
    for size in sizes {
      starts.append(position)
      position += size
    }
    let areas = zip(starts, sizes).map { $0..<$0 + $1 }
    let isFaulty = random.chance(1, in: 2)
    for _ in 0..<[1, 2, 2, 3, 4][pick(5)] {
      var limits = DeviceLimits()
      limits.supportsWriteZeroes = random.chance(2, in: 3)
      limits.isZoned = random.chance(1, in: 12)
      limits.physicalBlock = random.chance(1, in: 6) ? 4096 : 512
      plan.disks.append(
        .init(
          seed: random.next(), sectorCount: position, limits: limits, shared: .zero..<shared,
          faults: isFaulty ? drawFaults(.zero..<position) : DiskFaults()))
    }
    plan.lanes = areas.map { area in
      .init(areas: Array(repeating: area, count: plan.disks.count))
    }
  }

  private mutating func drawFaults(_ sectors: Range<Sector>) -> DiskFaults {
    var faults = DiskFaults()
    for _ in 0..<pick(4) { faults.failReads(random.range(in: sectors, longest: 3)) }
    for _ in 0..<pick(3) {
      let bad = random.range(in: sectors, longest: 20)
      faults.failReads(bad, times: 1 + pick(2), after: pick(3))
    }
    for _ in 0..<pick(3) {
      let bad = random.range(in: sectors, longest: 3)
      faults.failWrites(bad, times: random.chance(1, in: 2) ? nil : 1, after: pick(2))
    }
    return faults
  }

  private mutating func drawClients() {
    if random.chance(1, in: 4) {
      let rates: [UInt64?] = [nil, nil, 1 << 17, 1 << 20]
      plan.throttles.append(
        .init(
          percent: [0, 10, 60, 100][pick(4)], bytesPerSecond: rates[pick(4)],
          after: .milliseconds(pick(400)), laterPercent: [5, 50, 100][pick(3)],
          laterBytesPerSecond: rates[pick(4)]))
    }
    for _ in 0..<[1, 1, 2, 3][pick(4)] {
      let subJob = random.chance(1, in: 2) ? 8 : sectors(8...64)
      let needed = PagePool.pages(holding: subJob)
      let pages = random.chance(1, in: 4) ? needed : needed + pick(needed * 7 + 1)
      let throttle = plan.throttles.isEmpty || random.chance(1, in: 4) ? nil : 0
      plan.clients.append(.init(subJob: subJob, pages: pages, throttle: throttle))
    }
  }

  private mutating func drawPrepared() -> SimulationPlan.Prepared {
    .init(
      client: pick(plan.clients.count), delay: microseconds(4000),
      readError: random.chance(1, in: 2), writeErrors: random.next())
  }

  // MARK: Jobs

  private mutating func drawJob(lane: Int, isFirst: Bool) -> SimulationPlan.Job {
    var layout = RegionLayout(plan: plan, lane: lane)
    let isZeroing = random.chance(1, in: 5)
    let isWide = random.chance(1, in: 16)
    let longest = plan.lanes[lane].areas[0].length.rawValue / 2
    var count = sectors(isWide ? 1...4 : 1...longest)
    if random.chance(1, in: 24) { count = .zero }
    var options = drawOptions()
    var source: SimulationPlan.Place?
    var destinations: [SimulationPlan.Place] = []
    if !isZeroing {
      if count > .zero, random.chance(1, in: 5),
        let pair = layout.overlap(count, isOrdered: options.contains(.sequentialWrites), &random)
      {
        source = pair.source
        destinations = [pair.destination]
        // A zoned one among the others would ask for the ascending order.
        layout.avoidsZoned = pair.destination.sector > pair.source.sector
      } else {
        source = layout.source(count, &random)
      }
    }
    let wanted = isWide ? min(64, 20 + pick(80)) : [1, 1, 1, 2, 2, 3, 4][pick(7)]
    while destinations.count < wanted {
      guard let place = layout.destination(count, &random) else { break }
      destinations.append(place)
    }
    if destinations.isEmpty || random.chance(1, in: 20) {
      // One that is ignored, at any index.
      let disk = pick(plan.disks.count)
      let ignored = SimulationPlan.Place(disk: disk, sector: sectors(0...500), count: .zero)
      destinations.insert(ignored, at: pick(destinations.count + 1))
    }
    if destinations.count > 64 { destinations.removeLast(destinations.count - 64) }
    if layout.avoidsZoned { options.remove(.sequentialWrites) }
    let forms: [SimulationPlan.Form] = [.awaited, .notified, isFirst ? .notified : .chained]
    return .init(
      client: pick(plan.clients.count), source: source, destinations: destinations,
      count: source?.count ?? destinations.map(\.count).max() ?? .zero, options: options,
      form: forms[pick(3)], delay: random.chance(1, in: 2) ? .zero : microseconds(2000),
      cancelAfter: random.chance(1, in: 6) ? microseconds(6000) : nil)
  }

  private mutating func drawOptions() -> CopyOptions {
    var options: CopyOptions = []
    if random.chance(2, in: 5) { options.insert(.ignoreErrors) }
    if random.chance(1, in: 5) { options.insert(.sequentialWrites) }
    if random.chance(1, in: 4) { options.insert(.dropFailedDestinations) }
    return options
  }
}

/// Finds places for the regions of one job that don't get in each other's way.
private struct RegionLayout {
  let plan: SimulationPlan
  let lane: Int
  var avoidsZoned = false
  private var taken: [SimulationPlan.Place] = []

  init(plan: SimulationPlan, lane: Int) {
    self.plan = plan
    self.lane = lane
  }

  /// The lane's part of a disk. The last lane has the end of the disk, and may go beyond it.
  private func area(_ disk: Int, _ random: inout SeededRandom) -> Range<Sector> {
    let area = plan.lanes[lane].areas[disk]
    guard lane == plan.lanes.count - 1, random.chance(1, in: 8) else { return area }
    return area.lowerBound..<area.upperBound + 24
  }

  private func isFree(_ place: SimulationPlan.Place) -> Bool {
    taken.allSatisfy { $0.disk != place.disk || !$0.sectors.overlaps(place.sectors) }
  }

  private func anyPlace(
    _ count: Sector, in area: Range<Sector>, disk: Int, _ random: inout SeededRandom
  ) -> SimulationPlan.Place? {
    guard count <= area.length else { return nil }
    let room = (area.length - count).rawValue + 1
    let start = area.lowerBound + Sector(random.next(upperBound: room))
    return .init(disk: disk, sector: start, count: count)
  }

  /// From the shared area, or from the lane's own; as long as wanted if there is that much.
  mutating func source(_ count: Sector, _ random: inout SeededRandom) -> SimulationPlan.Place {
    let disk = Int(random.next(upperBound: UInt64(plan.disks.count)))
    let own = random.chance(1, in: 2) ? area(disk, &random) : plan.disks[disk].shared
    let fitting = min(count, own.length)
    guard let place = anyPlace(fitting, in: own, disk: disk, &random) else {
      preconditionFailure("what fits has a place")
    }
    taken.append(place)
    return place
  }

  mutating func destination(
    _ count: Sector, _ random: inout SeededRandom
  ) -> SimulationPlan.Place? {
    // The source may have been shorter than wanted.
    let count = taken.first?.count ?? count
    for _ in 0..<12 {
      let disk = Int(random.next(upperBound: UInt64(plan.disks.count)))
      if avoidsZoned, plan.disks[disk].limits.isZoned { continue }
      let area = area(disk, &random)
      guard let place = anyPlace(count, in: area, disk: disk, &random), isFree(place) else {
        continue
      }
      taken.append(place)
      return place
    }
    return nil
  }

  /// A source and a destination that share sectors.
  mutating func overlap(
    _ count: Sector, isOrdered: Bool, _ random: inout SeededRandom
  ) -> (source: SimulationPlan.Place, destination: SimulationPlan.Place)? {
    let disk = Int(random.next(upperBound: UInt64(plan.disks.count)))
    let area = area(disk, &random)
    let distance = Sector(random.next(upperBound: count.rawValue))
    let both = count + distance
    guard let span = anyPlace(both, in: area, disk: disk, &random) else { return nil }
    let low = SimulationPlan.Place(disk: disk, sector: span.sector, count: count)
    let high = SimulationPlan.Place(disk: disk, sector: span.sector + distance, count: count)
    let isUpward =
      distance > .zero && !isOrdered && !plan.disks[disk].limits.isZoned
      && random.chance(1, in: 2)
    taken = [low, high]
    return isUpward ? (low, high) : (high, low)
  }
}
