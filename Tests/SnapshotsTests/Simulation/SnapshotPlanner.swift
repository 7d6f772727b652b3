import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots

extension SnapshotPlan {
  /// The plan of a seed.
  init(seed: UInt64, _ bounds: Bounds = .everything) {
    var planner = SnapshotPlanner(seed: seed, bounds)
    self = planner.makePlan()
  }
}

/// Draws a plan.
struct SnapshotPlanner {
  private var random: SeededRandom
  private let bounds: SnapshotPlan.Bounds
  private var plan = SnapshotPlan()
  private let size: SnapshotPlan.Size
  private let laneCount: Int
  private let hasFaults: Bool

  init(seed: UInt64, _ bounds: SnapshotPlan.Bounds) {
    random = SeededRandom(seed: seed)
    self.bounds = bounds
    let isLarge = random.chance(1, in: 40)
    let isMedium = random.chance(1, in: 20)
    size = bounds.size ?? (isLarge ? .large : isMedium ? .medium : .small)
    laneCount = 1 + Int(random.next(upperBound: UInt64(4)))
    let isUnlucky = random.chance(2, in: 5)
    hasFaults = bounds.hasFaults && isUnlucky
  }

  mutating func makePlan() -> SnapshotPlan {
    plan.originCount =
      switch size {
      case .small: sectors(90...220)
      case .medium: sectors(500...700)
      case .large: sectors(2200...2400)
      }
    if random.chance(1, in: 6) { plan.unit = 8 }
    plan.originCount = aligned(plan.originCount)
    if random.chance(1, in: 2) {
      plan.originHole = drawRange(.zero..<plan.originCount, plan.originCount)
    }
    plan.originSeed = random.next()
    plan.originLimits = drawLimits()
    plan.mergeStep = [1, 2, 5, 1024][pick(4)]
    plan.subJob = [8, 16, 64, 128][pick(4)]
    let most: UInt64 = random.chance(1, in: 10) ? 8 : size == .small ? 4 : 2
    let count = bounds.snapshots ?? 1 + pick(most)
    for _ in 0..<count { plan.snapshots.append(drawSnapshot()) }
    for number in 0..<(bounds.phases ?? [1, 1, 2, 2, 3][pick(5)]) {
      plan.phases.append(drawPhase(number))
    }
    drawMerge()
    return plan
  }

  // MARK: Numbers

  private mutating func pick(_ count: UInt64) -> Int { Int(random.next(upperBound: count)) }

  private mutating func sectors(_ range: ClosedRange<UInt64>) -> Sector {
    Sector(range.lowerBound + random.next(upperBound: range.upperBound - range.lowerBound + 1))
  }

  /// The next number from `sector` on that requests may begin or end at.
  private func aligned(_ sector: Sector) -> Sector {
    let unit = plan.unit.rawValue
    return Sector((sector.rawValue + unit - 1) / unit * unit)
  }

  /// Whole units that touch `range`, as far as they lie in `whole`, which consists of such.
  private func aligned(_ range: Range<Sector>, in whole: Range<Sector>) -> Range<Sector> {
    let start = Sector(range.lowerBound.rawValue / plan.unit.rawValue * plan.unit.rawValue)
    return (start..<aligned(range.upperBound)).clamped(to: whole)
  }

  private mutating func delay(_ microseconds: Int64) -> Duration {
    random.duration(in: .zero ... .microseconds(microseconds))
  }

  // MARK: Devices

  private mutating func drawLimits() -> DeviceLimits {
    var limits = SimulatedDisk.allCapabilities
    limits.supportsFUA = random.chance(3, in: 4)
    limits.supportsWriteZeroes = random.chance(3, in: 4)
    if random.chance(1, in: 4) { limits.physicalBlock = 4096 }
    if plan.unit > 1, random.chance(2, in: 3) {
      limits.logicalBlock = Int(plan.unit.bytes)
      limits.physicalBlock = limits.logicalBlock
    }
    return limits
  }

  private mutating func drawSnapshot() -> SnapshotPlan.Snapshot {
    let chunk = size == .small ? [8, 8, 16, 32, 64][pick(5)] : 8 as Sector
    let kinds: [StoreKind] = [.persistent, .persistent, .persistentWithOverflow, .transient]
    let kind = kinds[pick(bounds.isPersistent ? 3 : 4)]
    var parameters = SnapshotParameters(store: kind, chunkSize: ChunkSize(chunk))
    parameters.discardZeroesCow = random.chance(1, in: 3)
    parameters.discardPassdownOrigin = parameters.discardZeroesCow && random.chance(1, in: 2)
    if random.chance(1, in: 4) { parameters.copiesInFlight = pick(4) }
    let count =
      random.chance(1, in: 4)
      ? min(aligned(sectors(60...plan.originCount.rawValue)), plan.originCount) : plan.originCount
    let chunks = (count.rawValue + chunk.rawValue - 1) / chunk.rawValue
    var cowChunks = chunks + 2 + (chunks + chunk.bytes / 16) / (chunk.bytes / 16)
    if bounds.runsFull, random.chance(1, in: 3) {
      let whole = cowChunks
      cowChunks = 3 + random.next(upperBound: whole - 2)
      // About as many as the first area can have.
      if size == .large, random.chance(2, in: 3) { cowChunks = 255 + random.next(upperBound: 8) }
      if random.chance(1, in: 3) {
        parameters.growthLimit = chunk * (3 + random.next(upperBound: whole))
      }
      if random.chance(1, in: 3) {
        parameters.whenFull = .hold(atMost: random.duration(in: .zero ... .milliseconds(300)))
      }
    }
    return SnapshotPlan.Snapshot(
      parameters: parameters, count: count,
      cowCount: aligned(chunk * cowChunks + sectors(0...(chunk.rawValue - 1))),
      seed: random.next(),
      limits: drawLimits())
  }

  // MARK: Phases

  private mutating func drawPhase(_ number: Int) -> SnapshotPlan.Phase {
    var phase = SnapshotPlan.Phase()
    for lane in 0..<laneCount {
      let steps = 1 + pick(bounds.steps)
      phase.lanes.append((0..<steps).map { _ in drawStep(lane) })
      // Fills the first area.
      if size == .large {
        let all = SnapshotPlan.Operation.write(0, area(lane), isDurable: false)
        phase.lanes[lane].insert(.init(delay: delay(8000), operation: all), at: 0)
      }
    }
    for index in plan.snapshots.indices { phase.lives.append(drawLife(index, number)) }
    if bounds.hasCrashes, random.chance(2, in: 3) {
      phase.crashAfter = delay(random.chance(1, in: 3) ? 80_000 : 20_000)
    }
    phase.cowFaults = plan.snapshots.map { _ in FaultPlan() }
    if random.chance(1, in: 3) {
      // Headers take their time, so that more happens while stores are marked invalid.
      for index in plan.snapshots.indices {
        phase.cowFaults[index].slowDown(0..<1, by: delay(8000))
      }
    }
    guard hasFaults, random.chance(2, in: 3) else { return phase }
    for _ in 0...pick(2) {
      let device = random.chance(1, in: 3) ? 0 : 1 + pick(UInt64(plan.snapshots.count))
      if device == 0 {
        drawFault(&phase.originFaults, plan.originCount)
      } else {
        drawFault(&phase.cowFaults[device - 1], plan.snapshots[device - 1].cowCount)
        if random.chance(1, in: 8) { phase.cowFaults[device - 1].failGrowing() }
      }
    }
    return phase
  }

  private mutating func drawFault(_ faults: inout FaultPlan, _ count: Sector) {
    let isPassing = random.chance(2, in: 3)
    let times = isPassing ? 1 + pick(2) : nil
    let skip = pick(4)
    let range = random.range(in: .zero..<count, longest: random.chance(1, in: 3) ? count : 12)
    switch pick(6) {
    case 0: faults.failFlushes(times: times, after: skip)
    case 1: faults.fail(.read, range, times: times, after: skip)
    case 2: faults.fail(.writeZeroes, range, times: times, after: skip)
    case 3: faults.fail(.discard, range, times: times, after: skip)
    default: faults.fail(.write, range, times: times, after: skip)
    }
  }

  private mutating func drawLife(_ index: Int, _ number: Int) -> [SnapshotPlan.Change] {
    var changes: [SnapshotPlan.Change] = []
    changes.append(.init(delay: random.chance(1, in: 3) ? .zero : delay(6000), kind: .add))
    if random.chance(1, in: 5) {
      changes.append(.init(delay: delay(6000), kind: .pause(delay(4000))))
    }
    if random.chance(1, in: 5) { changes.append(.init(delay: delay(6000), kind: .handOver)) }
    if random.chance(1, in: 12) { changes.append(.init(delay: delay(6000), kind: .remove)) }
    let snapshot = plan.snapshots[index]
    if snapshot.canRunFull, random.chance(1, in: 2) {
      let size = snapshot.cowCount + snapshot.chunk * UInt64(1 + pick(20))
      changes.append(.init(delay: delay(100_000), kind: .enlarge(size)))
    }
    return changes
  }

  private mutating func drawMerge() {
    guard bounds.merges ?? random.chance(1, in: 3) else { return }
    let candidates = plan.snapshots.indices.filter {
      plan.snapshots[$0].parameters.store.isPersistent
    }
    guard !candidates.isEmpty else { return }
    let index = candidates[pick(UInt64(candidates.count))]
    let number = plan.phases.count - 1
    if number > 0, random.chance(1, in: 2) {
      plan.phases[number].merge = index
      // A snapshot made now would be refused; there may be one later, when it is finished.
    } else {
      let kept = plan.phases[number].lives[index].prefix(1)
      plan.phases[number].lives[index] = kept + [.init(delay: delay(15_000), kind: .merge)]
    }
    if random.chance(1, in: 2) {
      plan.phases[number].lives[index].append(.init(delay: delay(3000), kind: .pause(delay(3000))))
    }
    // Time to be interrupted once more.
    if bounds.hasCrashes, random.chance(1, in: 2) { plan.phases.append(drawPhase(number + 1)) }
  }

  // MARK: Steps

  /// The sectors of a lane.
  private func area(_ lane: Int) -> Range<Sector> {
    let count = plan.originCount.rawValue
    let lanes = UInt64(laneCount)
    return aligned(
      Sector(count * UInt64(lane) / lanes))..<aligned(Sector(count * UInt64(lane + 1) / lanes))
  }

  private mutating func drawStep(_ lane: Int) -> SnapshotPlan.Step {
    let device = random.chance(1, in: 2) ? 0 : 1 + pick(UInt64(plan.snapshots.count))
    let count = device == 0 ? plan.originCount : plan.snapshots[device - 1].count
    let own = area(lane).clamped(to: .zero..<count)
    let longest: Sector = random.chance(size == .small ? 1 : 2, in: 4) ? count : 24
    let pause = random.chance(1, in: 3) ? Duration.zero : delay(3000)
    let operation: SnapshotPlan.Operation
    let kind = pick(18)
    if kind < 9, !own.isEmpty {
      operation = .write(
        device, drawRange(own, longest, device), isDurable: random.chance(1, in: 6))
    } else if kind < 13 || own.isEmpty {
      operation = .read(device, drawRange(.zero..<count, longest))
    } else if kind < 14 {
      let limit = [1, 2, 1000][pick(3)]
      operation = .status(device, drawRange(.zero..<count, longest), limit: limit)
    } else if kind < 16 || device == 0 {
      operation = .flush(device)
    } else {
      operation = .discard(device, drawRange(own, longest, device))
    }
    return SnapshotPlan.Step(delay: pause, operation: operation)
  }

  private mutating func drawRange(_ whole: Range<Sector>, _ longest: Sector) -> Range<Sector> {
    aligned(random.range(in: whole, longest: longest), in: whole)
  }

  /// A range of `own`, often of whole chunks.
  private mutating func drawRange(
    _ own: Range<Sector>, _ longest: Sector, _ device: Int
  ) -> Range<Sector> {
    let range = drawRange(own, longest)
    guard device > 0, random.chance(1, in: 2) else { return range }
    let chunk = plan.snapshots[device - 1].chunk.rawValue
    let start = Sector(range.lowerBound.rawValue / chunk * chunk)
    let end = Sector((range.upperBound.rawValue + chunk - 1) / chunk * chunk)
    let whole = (start..<end).clamped(to: own)
    return whole.isEmpty ? range : whole
  }
}
