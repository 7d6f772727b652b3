import BlockIO
@testable import BlockIOTesting
import DeviceMapperTesting
import Kcopyd
import Synchronization

@testable import Snapshots

/// The disks of a plan, what is known of them, and the origin and snapshots of the phase.
final class SnapshotWorld: Sendable {
  /// A snapshot's place.
  struct Slot: Sendable {
    enum State: Sendable {
      /// Never had its point in time.
      case absent
      case live(SnapshotDevice)
      /// Between two.
      case changing
      case merging(MergeDevice)
      /// On its COW device, to be opened in the next phase.
      case closed(isMerge: Bool)
      /// Invalid, merged, or taken away.
      case gone
    }

    var state = State.absent
    /// There may be a store although the snapshot is ``State/absent``.
    var wasBegun = false
    /// It was said to be lost, and that its store says so.
    var isLostForGood = false
    /// It is lost, and its store can't be made to say so: the write of the header has failed, too.
    /// The one case in which a store may call itself valid and isn't, so nobody looks at it again.
    var isUnmarked = false
    /// Its merge has ended.
    var isMerged = false
  }

  let plan: SnapshotPlan
  let loop: IOLoop
  let power: CrashSwitch
  let sabotage: SnapshotSabotage
  /// The origin's, and those of the snapshots.
  let disks: [SimulatedDisk]
  /// The same, as the code under test gets them.
  let devices: [any BlockDevice]
  let model: Mutex<SnapshotModel>
  let slots: Mutex<[Slot]>
  private let currentOrigin = Mutex<Origin?>(nil)
  private let failure = Mutex<CheckFailure?>(nil)

  init(
    _ plan: SnapshotPlan, sabotage: SnapshotSabotage = .none, crashPoint: Int? = nil,
    on loop: IOLoop
  ) {
    self.plan = plan
    self.loop = loop
    self.sabotage = sabotage
    let power = CrashSwitch(
      crashPoint: crashPoint, seed: plan.originSeed &+ UInt64(crashPoint ?? 0))
    self.power = power
    let origin = SimulatedDisk(
      "origin", sectorCount: plan.originCount, content: .zeroes, seed: plan.originSeed, loop: loop,
      limits: plan.originLimits, crashSwitch: power)
    for data in [
      Sector.zero..<plan.originHole.lowerBound, plan.originHole.upperBound..<plan.originCount,
    ] where !data.isEmpty {
      origin.fill(from: data.lowerBound, Version.initial.bytes(data))
    }
    disks =
      [origin]
      + plan.snapshots.enumerated().map { index, snapshot in
        let disk = SimulatedDisk(
          "cow\(index)", sectorCount: snapshot.cowCount, content: .zeroes, seed: snapshot.seed,
          loop: loop, limits: snapshot.limits, crashSwitch: power)
        // Zeros at the beginning make it a new one, whatever lies behind them.
        disk.fill(from: 1, Self.trash.copy(at: 0, count: Int((snapshot.cowCount - 1).bytes)))
        return disk
      }
    devices = disks.enumerated().map { sabotage.device($0.element, $0.offset == 0) }
    model = Mutex(
      SnapshotModel(
        originCount: plan.originCount, hole: plan.originHole.indices,
        snapshots: plan.snapshots.map { ($0.count, $0.chunk) }))
    slots = Mutex(plan.snapshots.map { _ in Slot() })
  }

  // Made once: thousands of runs start with it.
  private static let trash = Pattern("trash").bytes(0..<6000)

  var origin: Origin {
    guard let origin = currentOrigin.withLock({ $0 }) else { preconditionFailure("no phase") }
    return origin
  }

  /// A failure from where nothing can be thrown.
  func report(_ new: CheckFailure) { failure.withLock { $0 = $0 ?? new } }

  func throwReported() throws {
    if let failure = failure.withLock({ $0 }) { throw failure }
  }

  func setState(_ index: Int, _ state: Slot.State) { slots.withLock { $0[index].state = state } }

  /// The device that shows a snapshot, or the origin, if there is one now.
  func device(_ number: Int) -> (any BlockDevice)? {
    if number == 0 { return origin.device }
    guard case .live(let device) = slots.withLock({ $0[number - 1].state }) else { return nil }
    return device
  }

  // MARK: Running

  /// Does what the plan says, and checks it.
  func run() async throws {
    var hasCrashed = false
    for phase in plan.phases {
      try await reopen(phase.merge, hasCrashed: hasCrashed)
      setFaults(phase)
      try await run(phase)
      setFaults(nil)
      hasCrashed = try await end()
    }
    // What is left must be there, can be read, and a merge comes to its end.
    try await reopen(nil, hasCrashed: hasCrashed)
    try await finishMerge()
    try await checkAll()
    try checkAlignment()
    try throwReported()
  }

  private func run(_ phase: SnapshotPlan.Phase) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for lane in phase.lanes {
        group.addTask { try await self.run(lane) }
      }
      for (index, life) in phase.lives.enumerated() {
        group.addTask { try await self.live(index, life) }
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

  private func setFaults(_ phase: SnapshotPlan.Phase?) {
    for (number, disk) in disks.enumerated() {
      let faults = phase.map { number == 0 ? $0.originFaults : $0.cowFaults[number - 1] }
      disk.plan = sabotage.faults(faults ?? FaultPlan(), number == 0)
    }
  }

  /// The end of a phase: everything is checked, or the power has gone; whether it has.
  private func end() async throws -> Bool {
    if !power.isOff {
      do {
        try await finishMerge()
        try await checkAll()
      } catch {
        // It may also go now.
        guard power.isOff else { throw error }
      }
    }
    let hasCrashed = power.isOff
    if hasCrashed {
      await waitForMerge()
      power.turnOn()
      model.withLock { $0.crash() }
    }
    sabotage.afterPhase(disks)
    for index in plan.snapshots.indices { close(index) }
    currentOrigin.withLock { $0 = nil }
    return hasCrashed
  }

  private func close(_ index: Int) {
    let isPersistent = plan.snapshots[index].parameters.store.isPersistent
    let isGone = slots.withLock { slots in
      switch slots[index].state {
      case .live, .changing:
        let canReturn = isPersistent && !slots[index].isUnmarked
        slots[index].state = canReturn ? .closed(isMerge: false) : isPersistent ? .gone : .absent
        return !canReturn
      case .merging:
        slots[index].state = .closed(isMerge: true)
      case .absent, .gone, .closed: break
      }
      return false
    }
    if isGone { model.withLock { $0.drop(index + 1) } }
  }

  // MARK: Opening

  /// Opens everything, once more if the power goes meanwhile.
  private func reopen(_ newMerge: Int?, hasCrashed: Bool) async throws {
    do {
      try await open(newMerge, hasCrashed: hasCrashed)
    } catch {
      guard power.isOff else { throw error }
      try await open(newMerge, hasCrashed: try await end())
    }
  }

  /// Opens everything there is, as after a restart, and looks at it. What is merged comes last:
  /// the others must not miss anything.
  private func open(_ newMerge: Int?, hasCrashed: Bool) async throws {
    let origin: Origin
    do {
      let client = try KcopydClient(subJob: plan.subJob, on: loop)
      origin = Origin(
        devices[0], client: client, mergeStepExceptions: plan.mergeStep, on: loop)
    } catch {
      throw CheckFailure("no origin: \(error)")
    }
    currentOrigin.withLock { $0 = origin }
    var merge: Int?
    for index in plan.snapshots.indices {
      guard case .closed(let isMerge) = slots.withLock({ $0[index].state }) else { continue }
      if isMerge { merge = index } else { try await reopen(index) }
    }
    if let merge { try await reopenMerge(merge) }
    // Without a crash everything has just been looked at.
    if hasCrashed { try await checkAll(settles: true) }
    if let newMerge, merge == nil, !model.withLock({ $0.isMerging }) {
      try await mergeCold(newMerge)
    }
  }

  private func reopen(_ index: Int) async throws {
    let snapshot = plan.snapshots[index]
    let device: SnapshotDevice
    do {
      device = try await origin.addSnapshot(
        cow: devices[index + 1], parameters: snapshot.parameters, sectorCount: snapshot.count,
        mustExist: true, onEvent: { [weak self] in self?.note($0, of: index) })
      try await device.resume()
    } catch {
      throw CheckFailure("snapshot \(index) can't be opened: \(error)")
    }
    try ensure(device.chunkSize.sectors == snapshot.chunk, "another chunk size")
    let status = await device.status
    if case .invalid(let reason) = status.condition {
      try explainLoss(index, reason)
      await device.remove()
      setState(index, .gone)
      return model.withLock { $0.drop(index + 1) }
    }
    let isLost = slots.withLock { $0[index].isLostForGood }
    try ensure(!isLost, "snapshot \(index) was lost, and is valid now")
    setState(index, .live(device))
  }

  private func addMerge(_ index: Int) async throws -> MergeDevice {
    let snapshot = plan.snapshots[index]
    do {
      return try await origin.addMerge(
        cow: devices[index + 1], parameters: snapshot.parameters, sectorCount: snapshot.count,
        onEvent: { [weak self] in self?.note($0, of: index) })
    } catch {
      throw CheckFailure("snapshot \(index) can't be merged: \(error)")
    }
  }

  private func reopenMerge(_ index: Int) async throws {
    let merge = try await addMerge(index)
    if case .invalid(let reason) = await merge.status.condition {
      throw CheckFailure("a store being merged is invalid: \(reason)")
    }
    do { try await merge.resume() } catch { throw CheckFailure("\(error)") }
    setState(index, .merging(merge))
  }

  /// Begins a merge while nothing else is going on.
  private func mergeCold(_ index: Int) async throws {
    guard case .live(let device) = slots.withLock({ $0[index].state }) else { return }
    await device.remove()
    let merge = try await addMerge(index)
    model.withLock { $0.beginMerge() }
    do { try await merge.resume() } catch { throw CheckFailure("\(error)") }
    model.withLock { $0.endMerge(index + 1) }
    setState(index, .merging(merge))
  }

  // MARK: Merging

  private var merging: (index: Int, device: MergeDevice)? {
    for (index, slot) in slots.withLock({ $0 }).enumerated() {
      if case .merging(let device) = slot.state { return (index, device) }
    }
    return nil
  }

  var mergingIndex: Int? { merging?.index }

  private func waitForMerge() async { await merging?.device.waitUntilEnded() }

  /// Waits for the end of a merge: the origin then is what the snapshot was, and nothing is left
  /// in the store.
  private func finishMerge() async throws {
    guard let (index, merge) = merging else { return }
    await merge.waitUntilEnded()
    try throwReported()
    let status = await merge.status
    if case .mergeFailed = status.condition { return }
    try ensure(
      [.valid, .overflowed].contains(status.condition) && status.allocated == status.metadata,
      "the merge has ended with \(status)")
    try ensure(slots.withLock { $0[index].isMerged }, "no event tells of the end of the merge")
    await merge.remove()
    try await check(0, disks[0], settles: false)
    setState(index, .gone)
    model.withLock { $0.isMerging = false }
  }

  // MARK: Checks

  /// Reads everything there is. With `settles` nothing is in caches: the power had gone.
  private func checkAll(settles: Bool = false) async throws {
    try await check(0, origin.device, settles: settles)
    for index in plan.snapshots.indices {
      guard case .live(let device) = slots.withLock({ $0[index].state }) else { continue }
      if case .invalid(let reason) = await device.status.condition {
        try explainLoss(index, reason)
        let isRead = (try? await device.contents(0..<1)) != nil
        try ensure(!isRead, "an invalid snapshot can be read")
        continue
      }
      do {
        try await check(index + 1, device, settles: settles)
      } catch let error as IOFailure {
        // A merge that goes on meanwhile may need room that there isn't.
        try await explain(error, .read, of: index + 1)
      }
    }
  }

  private func check(_ number: Int, _ device: any BlockDevice, settles: Bool) async throws {
    let sectors = Sector.zero..<(number == 0 ? plan.originCount : plan.snapshots[number - 1].count)
    let read = model.withLock { $0.beginRead(number, sectors.indices) }
    let bytes = try await device.contents(sectors)
    try model.withLock { try $0.endRead(read, bytes, settlesDurable: settles) }
    try await checkStatus(of: device, number, sectors, 1000)
  }

  /// Aligned requests of clients become aligned requests of disks.
  private func checkAlignment() throws {
    for disk in disks where disk.limits.logicalBlock > Sector.byteCount {
      let block = UInt64(disk.limits.logicalBlock)
      for request in disk.log {
        // Where zeros begin it knows by the sector.
        guard let sectors = request.sectors, request.operation != .blockStatus else { continue }
        try ensure(
          sectors.lowerBound.bytes % block == 0 && sectors.upperBound.bytes % block == 0,
          "\(disk.name): \(request.operation) of \(sectors), which are no whole blocks")
      }
    }
  }
}
