import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Synchronization

/// The disks of a plan, what is known of them, and the mirror of the phase.
final class MirrorWorld: Sendable {
  /// What changes while the phase goes on.
  struct Now: Sendable {
    var mirror: MirrorDevice?
    /// Whether requests may be made; otherwise they wait, as they do before a suspended device.
    var isOpen = false
    /// Lanes that aren't at their end.
    var lanes = 0
    /// Whether the mirror has said that all is in sync, since it was last resumed.
    var wasInSync = false
    /// Whether leg 0 couldn't be flushed before that, when it was all there was.
    var mayHaveLost = false
    /// How many requests each disk had seen when the mirror was made: legs, log, sidecar.
    var seen: [Int] = []
    var failure: CheckFailure?
  }

  let plan: MirrorPlan
  let loop: IOLoop
  let power: CrashSwitch
  let sabotage: MirrorSabotage
  let legs: [SimulatedDisk]
  let log: SimulatedDisk?
  let sidecar: SimulatedDisk?
  private let devices: [MirrorLeg]
  private let logDevice: (any BlockDevice)?
  private let sidecarDevice: (any BlockDevice)?
  let model: Mutex<MirrorModel>
  let now = Mutex(Now())

  init(
    _ plan: MirrorPlan, sabotage: MirrorSabotage = .none, crashPoint: Int? = nil, on loop: IOLoop
  ) {
    self.plan = plan
    self.loop = loop
    self.sabotage = sabotage
    let power = CrashSwitch(crashPoint: crashPoint, seed: plan.seed &+ UInt64(crashPoint ?? 0))
    self.power = power
    var random = SeededRandom(seed: plan.seed)
    var legs: [SimulatedDisk] = []
    for (index, offset) in plan.offsets.enumerated() {
      let disk = SimulatedDisk(
        "leg\(index)", sectorCount: offset + plan.count + 3, content: .zeroes, seed: random.next(),
        loop: loop, limits: plan.legLimits[index], crashSwitch: power,
        isOftenQuick: plan.quickLegs.contains(index))
      let isSame = plan.start == .same || index == 0
      let version = isSame ? Version.initial : Version(rawValue: 1_000_000 + UInt32(index))
      disk.fill(from: offset, version.bytes(.zero..<plan.count))
      legs.append(disk)
    }
    self.legs = legs
    log = plan.logLimits.map { limits in
      SimulatedDisk(
        "log", sectorCount: 8, content: .zeroes, seed: random.next(), loop: loop, limits: limits,
        crashSwitch: power)
    }
    sidecar = plan.sidecarLimits.map { limits in
      SimulatedDisk(
        "sidecar", sectorCount: 256, content: .zeroes, seed: random.next(), loop: loop,
        limits: limits, crashSwitch: power)
    }
    devices = legs.indices.map {
      MirrorLeg(sabotage.device(legs[$0], .leg($0)), offset: plan.offsets[$0])
    }
    logDevice = log.map { sabotage.device($0, .log) }
    sidecarDevice = sidecar.map { sabotage.device($0, .sidecar) }
    model = Mutex(MirrorModel(count: plan.count))
  }

  var disks: [SimulatedDisk] { legs + [log, sidecar].compactMap(\.self) }
  var regionCount: UInt64 { plan.parameters.regionSize.count(in: plan.count) }

  /// A failure from where nothing can be thrown.
  func report(_ new: CheckFailure) { now.withLock { $0.failure = $0.failure ?? new } }

  func throwReported() throws {
    if let failure = now.withLock({ $0.failure }) { throw failure }
  }

  // MARK: Running

  /// Does what the plan says, and checks it.
  func run() async throws {
    if plan.start == .same, let log {
      let blank = MemoryDevice(sectorCount: log.sectorCount)
      try await MirrorLog.create(on: blank, regionCount: regionCount, isInSync: true)
      log.fill(try await blank.contents(.zero..<log.sectorCount))
    }
    for phase in plan.phases {
      if power.isOff { try await restart() }
      setFaults(phase)
      try await open()
      try await run(phase)
      setFaults(nil)
      // The kernel calls regions in sync, and then clean, that it couldn't recover.
      let hasForgotten = forgetsRecovery
      if power.isOff { try await restart() } else { try await finish() }
      if hasForgotten { return }
    }
    // What is left must be there, and the same on all legs.
    try await open()
    try await finish()
    try throwReported()
  }

  private func run(_ phase: MirrorPlan.Phase) async throws {
    now.withLock { $0.lanes = phase.lanes.count }
    try await withThrowingTaskGroup(of: Void.self) { group in
      for lane in phase.lanes {
        group.addTask {
          defer { self.now.withLock { $0.lanes -= 1 } }
          try await self.run(lane)
        }
      }
      group.addTask { try await self.change(phase.changes) }
      for change in phase.changes {
        guard case .compare = change.kind else { continue }
        group.addTask {
          await self.loop.sleep(for: change.delay)
          try await self.compare()
        }
      }
      if let crashAfter = phase.crashAfter {
        group.addTask {
          await self.loop.sleep(for: crashAfter)
          self.power.turnOff()
        }
      }
      try await group.waitForAll()
    }
    try throwReported()
  }

  func setFaults(_ phase: MirrorPlan.Phase?) {
    for (index, leg) in legs.enumerated() {
      var faults = phase?.legFaults[index] ?? FaultPlan()
      sabotage.faults(&faults, .leg(index))
      leg.plan = faults
    }
    var faults = phase?.logFaults ?? FaultPlan()
    sabotage.faults(&faults, .log)
    log?.plan = faults
  }

  // MARK: The mirror

  /// Makes the mirror anew, as after a restart or with another table.
  func open() async throws {
    let seen = disks.map { $0.log.count }
    let mirror = try MirrorDevice(
      legs: devices, log: logDevice, sidecar: sidecarDevice, sectorCount: plan.count,
      parameters: plan.parameters, subJob: 16, on: loop, onEvent: { [weak self] in self?.note($0) })
    now.withLock { now in
      now.seen = seen
      now.mirror = mirror
      now.mayHaveLost = false
      now.wasInSync = false
    }
    try await mirror.resume()
    now.withLock { $0.isOpen = true }
  }

  var mirror: MirrorDevice {
    guard let mirror = now.withLock({ $0.mirror }) else { preconditionFailure("no mirror") }
    return mirror
  }

  /// The mirror as soon as requests may be made; nil when there is no power.
  func ready() async -> MirrorDevice? {
    while !power.isOff {
      let mirror = now.withLock { $0.isOpen ? $0.mirror : nil }
      if let mirror { return mirror }
      await loop.sleep(for: .microseconds(100))
    }
    return nil
  }

  func suspend(requeuing: Bool = false) async {
    now.withLock { $0.isOpen = false }
    // What was just made gets into the mirror.
    await loop.sleep(for: .nanoseconds(1))
    await mirror.suspend(requeuing: requeuing)
  }

  func resume() async {
    now.withLock { $0.wasInSync = false }
    do throws(MirrorError) {
      try await mirror.resume()
    } catch {
      // It isn't without its sidecar, which needs power.
      if !power.isOff { report(CheckFailure("the mirror was refused: \(error)")) }
    }
    now.withLock { $0.isOpen = true }
  }

  // MARK: The end of a phase

  /// The power has gone, and is given back.
  private func restart() async throws {
    await suspend()
    // What the mirror would still do, it can't: it has gone with the power.
    await loop.sleep(for: .seconds(1))
    setFaults(nil)
    power.turnOn()
    model.withLock { $0.crash() }
    sabotage.afterPhase(legs, log)
    if !forgetsRecovery { try await checkClean() }
  }

  /// All legs come to be the same, and the mirror is suspended.
  private func finish() async throws {
    do {
      try await waitUntilInSync()
      await suspend()
      try await checkSilence()
      try throwReported()
    } catch {
      guard power.isOff else { throw error }
    }
    guard !power.isOff, !forgetsRecovery else { return }
    try checkLegs()
    if !hasFailed(anywhere: .flush, .write, .read) { try await checkClean(all: true) }
    sabotage.afterPhase(legs, log)
  }

  private func waitUntilInSync() async throws {
    for attempt in 1...30 {
      await mirror.waitForRecovery()
      if power.isOff { return }
      let status = try await status()
      if status.regionsInSync == status.regionCount { return }
      let retries = plan.parameters.conduct.retryDelay != nil && attempt % 5 != 0
      if retries {
        await loop.sleep(for: .milliseconds(50))
      } else {
        await suspend()
        await resume()
      }
    }
    throw CheckFailure("it doesn't come into sync: \(await mirror.status.line())")
  }

  /// Nothing comes from a mirror that is suspended.
  private func checkSilence() async throws {
    let before = disks.map { $0.log.count }
    await loop.sleep(for: .seconds(1))
    let after = disks.map { $0.log.count }
    try ensure(after == before, "a suspended mirror does I/O")
  }
}
