import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors

extension MirrorPlan {
  /// The plan of a seed.
  init(seed: UInt64, _ bounds: Bounds = .everything) {
    var planner = MirrorPlanner(seed: seed, bounds)
    self = planner.makePlan()
  }
}

/// Draws a plan.
struct MirrorPlanner {
  private var random: SeededRandom
  private let bounds: MirrorPlan.Bounds
  private var plan: MirrorPlan
  private let laneCount: Int
  private let hasFaults: Bool
  private let hasCrashes: Bool
  private let isKernel: Bool

  init(seed: UInt64, _ bounds: MirrorPlan.Bounds) {
    random = SeededRandom(seed: seed)
    self.bounds = bounds
    laneCount = 1 + Int(random.next(upperBound: UInt64(3)))
    let isUnlucky = random.chance(1, in: 2)
    hasFaults = bounds.hasFaults && isUnlucky
    let isCut = random.chance(2, in: 3)
    hasCrashes = bounds.isCutOff || bounds.hasCrashes && isCut
    let isLikeTheKernel = random.chance(1, in: 3)
    isKernel = isLikeTheKernel && bounds.hasSidecar != true
    let size = RegionSize(Sector(2 << random.next(upperBound: UInt64(5))))
    plan = MirrorPlan(parameters: MirrorParameters(regionSize: size ?? Self.smallest))
  }

  private static let smallest: RegionSize = {
    guard let size = RegionSize(2) else { preconditionFailure("2 is a region size") }
    return size
  }()

  mutating func makePlan() -> MirrorPlan {
    let size = plan.parameters.regionSize.sectors.rawValue
    plan.count = sectors(size...min(100, size * bounds.regions))
    plan.seed = random.next()
    let legs = bounds.legs ?? [2, 2, 2, 3, 3, 4, 5][pick(7)]
    for _ in 0..<legs {
      plan.offsets.append(random.chance(1, in: 3) ? sectors(0...9) : .zero)
      plan.legLimits.append(drawLimits())
    }
    let hasDisk = random.chance(3, in: 4)
    if bounds.hasDisk ?? hasDisk { plan.logLimits = drawLimits() }
    plan.start = bounds.start ?? (random.chance(1, in: 2) ? .same : .different)
    drawParameters()
    if random.chance(1, in: 2) {
      plan.quickLegs = Set((0..<legs).filter { _ in random.chance(2, in: 3) })
    }
    for number in 0..<(bounds.phases ?? [1, 1, 1, 2, 2, 3][pick(6)]) {
      plan.phases.append(drawPhase(number))
    }
    return plan
  }

  // MARK: Numbers

  private mutating func pick(_ count: UInt64) -> Int { Int(random.next(upperBound: count)) }

  private mutating func sectors(_ range: ClosedRange<UInt64>) -> Sector {
    Sector(range.lowerBound + random.next(upperBound: range.upperBound - range.lowerBound + 1))
  }

  private mutating func delay(_ microseconds: Int64) -> Duration {
    random.duration(in: .zero ... .microseconds(microseconds))
  }

  // MARK: Devices

  private mutating func drawLimits() -> DeviceLimits {
    var limits = SimulatedDisk.allCapabilities
    limits.supportsFUA = random.chance(3, in: 4)
    if random.chance(1, in: 6) { limits.logicalBlock = 4096 }
    return limits
  }

  private mutating func drawParameters() {
    switch pick(3) {
    case 0: break
    case 1: plan.parameters.handlesErrors = true
    default:
      plan.parameters.handlesErrors = true
      plan.parameters.keepsLog = true
    }
    if random.chance(1, in: 10) {
      plan.parameters.sync = .sync
    } else if plan.start == .same, !hasFaults, !hasCrashes, random.chance(1, in: 4) {
      // Everything is called the same at every resume, which must be so.
      plan.parameters.sync = .nosync
    }
    let hasSidecar = random.chance(1, in: 2)
    guard !isKernel else { return plan.parameters.conduct = .kernel }
    if bounds.hasSidecar ?? hasSidecar { plan.sidecarLimits = drawLimits() }
    let size = plan.parameters.regionSize.sectors
    plan.parameters.conduct.recoveriesInFlight = 1 + pick(4)
    plan.parameters.conduct.recoveryPiece = size * UInt64(1 + pick(6))
    plan.parameters.conduct.cleaningDelay = random.chance(1, in: 4) ? .zero : delay(8000)
    plan.parameters.conduct.retryDelay = .milliseconds(1 + pick(8))
    plan.parameters.conduct.balancesReads = random.chance(2, in: 3)
    plan.parameters.conduct.repairsReads = random.chance(2, in: 3)
  }

  // MARK: Phases

  private mutating func drawPhase(_ number: Int) -> MirrorPlan.Phase {
    var phase = MirrorPlan.Phase()
    for lane in 0..<laneCount {
      let steps = 1 + pick(bounds.steps)
      phase.lanes.append((0..<steps).map { _ in drawStep(lane) })
    }
    for _ in 0..<pick(3) { phase.changes.append(drawChange()) }
    if hasCrashes, !bounds.isCutOff, random.chance(2, in: 3) {
      phase.crashAfter = delay(random.chance(1, in: 3) ? 40_000 : 12_000)
    }
    phase.legFaults = plan.offsets.map { _ in FaultPlan() }
    guard hasFaults, random.chance(3, in: 4) else { return phase }
    let isLogIgnored = !plan.parameters.handlesErrors && plan.logLimits != nil
    let mayFailLog = !isLogIgnored || !hasCrashes
    if mayFailLog, plan.logLimits != nil, random.chance(1, in: 4) {
      drawFault(&phase.logFaults, .zero..<8)
      if isLogIgnored { return phase }
    }
    // Leg 0 is trusted by the kernel, and without a sidecar after a loss of power.
    let isLost = plan.sidecarLimits == nil && (phase.crashAfter != nil || bounds.isCutOff)
    let first = isKernel || isLost ? 1 : 0
    for _ in 0...pick(3) {
      let leg = first + pick(UInt64(plan.offsets.count - first))
      let begin = plan.offsets[leg]
      drawFault(&phase.legFaults[leg], begin..<begin + plan.count)
    }
    if random.chance(1, in: 2) {
      phase.changes.append(.init(delay: delay(8000), kind: .heal))
    }
    return phase
  }

  private mutating func drawFault(_ faults: inout FaultPlan, _ sectors: Range<Sector>) {
    let times = random.chance(2, in: 3) ? 1 + pick(3) : nil
    let skip = pick(5)
    let longest: Sector = random.chance(1, in: 3) ? sectors.length : 12
    let range = random.range(in: sectors, longest: longest)
    switch pick(9) {
    case 0: faults.failFlushes(times: times, after: skip)
    case 1: faults.slowDown(range, by: delay(8000))
    case 2, 3, 4: faults.fail(.read, range, times: times, after: skip)
    case 5: faults.fail(.discard, range, times: times, after: skip)
    default: faults.fail(.write, range, times: times, after: skip)
    }
  }

  private mutating func drawChange() -> MirrorPlan.Change {
    let kind: MirrorPlan.Change.Kind =
      switch pick(4) {
      case 0: .status
      case 1: .compare
      default: .pause(delay(3000), requeuing: random.chance(1, in: 2))
      }
    return .init(delay: delay(8000), kind: kind)
  }

  // MARK: Steps

  private mutating func drawStep(_ lane: Int) -> MirrorPlan.Step {
    let (count, lanes) = (plan.count.rawValue, UInt64(laneCount))
    let own = Sector(count * UInt64(lane) / lanes)..<Sector(count * UInt64(lane + 1) / lanes)
    let longest: Sector = random.chance(1, in: 4) ? plan.count : 10
    let pause = random.chance(1, in: 3) ? Duration.zero : delay(3000)
    let kind = pick(16)
    let operation: MirrorPlan.Operation =
      if kind < 9, !own.isEmpty {
        .write(random.range(in: own, longest: longest), isDurable: random.chance(1, in: 5))
      } else if kind < 13 || own.isEmpty {
        .read(random.range(in: .zero..<plan.count, longest: longest))
      } else if kind < 15 {
        .flush
      } else {
        .discard(random.range(in: own, longest: longest))
      }
    return MirrorPlan.Step(delay: pause, operation: operation)
  }
}
