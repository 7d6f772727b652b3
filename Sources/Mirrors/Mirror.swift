import BlockIO
import Kcopyd
import DequeModule
import SystemPackage

/// The state behind a mirror: legs, dirty log, regions, recovery.
///
/// What a write waits for, in this order: the end of a recovery of its regions; their bits cleared
/// in the log, durably; the data on all legs. A region's bit is set again when nothing has been
/// under way there for a while and all legs have been flushed.
actor Mirror {
  nonisolated let loop: IOLoop
  nonisolated let sectorCount: Sector
  nonisolated let parameters: MirrorParameters
  nonisolated let name: String
  nonisolated let client: KcopydClient
  /// Slows recovery down.
  nonisolated let throttle: Throttle

  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  let legs: [Leg]
  /// The same for those who aren't on the actor: where they are.
  nonisolated let places: [MirrorLeg]
  let log: DirtyLog
  let onEvent: @Sendable (MirrorEvent) -> Void

  /// The leg that is trusted where legs may differ.
  var defaultLeg = 0
  /// Whether all regions have been in sync since the last failure.
  var isInSync = false
  /// Whether a leg has failed since the mirror was made, or was last in sync.
  var hasFailedLeg = false
  /// In the kernel's way, which doesn't track stale legs: a flush that was asked for has failed, and
  /// whatever goes idle from then on counts as out of sync.
  var distrustsIdle = false
  let legFlushes = LegFlushes()
  /// How often a flush of legs has failed.
  var failedFlushes = 0

  /// Regions with something under way, and those that are to be called clean.
  var regions: [Region: RegionState] = [:]
  /// The latter, each once, with when they were found idle.
  var idle = Deque<(region: Region, since: LoopInstant)>()
  var isCleaning = false

  /// Of regions that aren't in sync: the legs that have everything that was acknowledged. Where
  /// nothing has been written since the mirror was resumed that is ``firstTrusted`` alone.
  var trust: [Region: Set<Int>] = [:]
  /// The leg that is trusted at the beginning.
  let firstTrusted = 0
  /// Keeps ``trust`` over a restart.
  let sidecar: Sidecar?
  /// Changes of ``trust``, and those of them that the sidecar has.
  var trustChanges: UInt64 = 0
  var savedTrustChanges: UInt64 = 0
  var isSavingTrust = false
  let trustSaved = Gate()

  var isResumed = false
  var isSuspending = false
  /// Recoveries under way; none is started unless `mayRecover`.
  let recoveries = Quota(limit: 0)
  var mayRecover = false
  /// Pieces that were copied and wait for flushes. The kernel's way, one at a time, has none.
  let settling: Quota
  /// Mends under way.
  let mends = Quota(limit: 0)
  var retryDelay: Duration?
  var isRetryPlanned = false

  let requests = Quota(limit: 0)
  /// Whether it is on its way up or down: the next one waits.
  var isChanging = false
  let changed = Gate()
  /// Writes that wait for another table.
  var held = 0
  let heldReleased = Gate()
  /// How held writes end: nil while they are to be held.
  var heldEnd: HeldEnd?

  enum HeldEnd { case requeue, fail }

  init(
    legs: [(device: any BlockDevice, offset: Sector)], log: (any BlockDevice)?, name: String,
    sidecar: (any BlockDevice)?, sectorCount: Sector, parameters: MirrorParameters,
    subJob: Sector, throttle: Throttle, on loop: IOLoop,
    onEvent: @escaping @Sendable (MirrorEvent) -> Void
  ) throws(MirrorError) {
    self.loop = loop
    self.name = name
    self.sectorCount = sectorCount
    self.parameters = parameters
    let inFlight = parameters.conduct.recoveriesInFlight
    settling = Quota(limit: inFlight > 1 ? inFlight : 0)
    self.onEvent = onEvent
    self.legs = legs.map { Leg($0.device, offset: $0.offset) }
    places = legs.map { MirrorLeg($0.device, offset: $0.offset) }
    try Self.check(self.legs, log, sidecar, sectorCount)
    let size = try MirrorError.regionSize(parameters.regionSize.sectors, for: sectorCount)
    let count = size.count(in: sectorCount)
    let disk = try log.map { log throws(MirrorError) in try DiskLog(log, regionCount: count) }
    self.log = DirtyLog(regionCount: count, policy: .init(parameters.sync), disk: disk)
    self.sidecar = try sidecar.map { device throws(MirrorError) in
      try Sidecar(
        device, shape: .init(legCount: legs.count, regionCount: count, regionSize: size.sectors))
    }
    self.throttle = throttle
    do throws(KcopydError) {
      // With several pieces at once what counts is how much is under way.
      client = try KcopydClient(
        subJob: subJob == .zero ? KcopydClient.maximumSubJob : subJob, throttle: throttle, on: loop)
    } catch {
      throw .io(IOFailure(.reservePages, name, errno: .noMemory))
    }
  }

  private static func check(
    _ legs: [Leg], _ log: (any BlockDevice)?, _ sidecar: (any BlockDevice)?, _ length: Sector
  ) throws(MirrorError) {
    guard MirrorParameters.legCount.contains(legs.count) else { throw .legCount(legs.count) }
    for (index, leg) in legs.enumerated() {
      let (end, overflow) = leg.offset.rawValue.addingReportingOverflow(length.rawValue)
      guard !overflow, Sector(end) <= leg.device.sectorCount else {
        throw .legTooSmall(
          name: leg.device.name, sectors: leg.device.sectorCount,
          needed: Sector(overflow ? .max : end))
      }
      for other in legs.dropFirst(index + 1) where leg.overlaps(other, length: length) {
        throw .sameDevice(leg.device.name, other.device.name)
      }
      for other in [log, sidecar] {
        if let other, other.identity == leg.device.identity {
          throw .sameDevice(leg.device.name, other.name)
        }
      }
    }
    if let log, let sidecar, log.identity == sidecar.identity {
      throw .sameDevice(log.name, sidecar.name)
    }
  }

  // MARK: Life

  /// Reads the log, and starts to recover what isn't in sync.
  ///
  /// - Throws: also when the log's device has been suspended for too long; it isn't resumed then.
  func resume() async throws(MirrorError) {
    await beginChange()
    defer { endChange() }
    guard !isResumed else { return }
    let known = try await loadTrust()
    do throws(IOFailure) {
      if let problem = try await log.resume() { onEvent(.logFailed(problem)) }
    } catch { throw .io(error) }
    forgetWhatIsInSync()
    if !known, !parameters.conduct.trustsFirstLeg, !log.isInSync, log.wasFound {
      throw .state(
        "\(log.regionCount - log.syncCount) of \(log.regionCount) regions are out of sync, and"
          + " nothing says which leg is right; give a sidecar, or trust the first leg")
    }
    isResumed = true
    heldEnd = nil
    mayRecover = true
    retryDelay = parameters.conduct.retryDelay
    startRecovery()
    noteIfInSync()
  }

  /// Stops recovering, ends held writes, waits for what is under way, and writes the log.
  ///
  /// - Parameter requeuing: whether held writes end so that they can be given to the device that
  ///   takes this one's place; otherwise they fail.
  func suspend(requeuing: Bool) async {
    await beginChange()
    defer { endChange() }
    guard isResumed else { return }
    isSuspending = true
    defer { isSuspending = false }
    mayRecover = false
    heldEnd = requeuing ? .requeue : .fail
    heldReleased.open()
    await recoveries.waitForNone()
    await mends.waitForNone()
    await requests.waitForNone()
    cleanAllIdle()
    await flushLog()
    await saveTrust()
    isResumed = false
  }

  /// Starts work of the mirror's own: how long a request may wait that happens to set it going is
  /// nothing to it.
  nonisolated func inBackground(_ body: @escaping @Sendable () async -> Void) {
    Task.detached(executorPreference: loop, operation: body)
  }

  private func beginChange() async {
    while isChanging { await changed.wait { isChanging } }
    isChanging = true
  }

  private func endChange() {
    isChanging = false
    changed.open()
  }

  /// Takes a request in; every one of them must be given to ``endRequest()``.
  func beginRequest(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>?
  ) throws(IOFailure) {
    guard isResumed, !isSuspending else {
      throw IOFailure(
        operation, name, sectors, errno: .ioError, detail: IOFailure.notResumedDetail)
    }
    requests.add(1)
  }

  func endRequest() { requests.remove(1) }

  func waitForRecovery() async { await recoveries.waitForNone() }

  var status: MirrorStatus {
    let letter: Character =
      switch log.condition {
      case .alive: "A"
      case .failed: "D"
      case .flushFailed: "F"
      }
    return MirrorStatus(
      legs: legs.map { .init(name: $0.device.name, letter: $0.letter) }, defaultLeg: defaultLeg,
      regionsInSync: log.syncCount, regionCount: log.regionCount,
      log: .init(name: log.disk?.device.name, letter: letter), held: held,
      isRecovering: recoveries.count > 0)
  }

  // MARK: Log

  /// Makes what has been marked durable.
  ///
  /// - Returns: whether the log can be relied on.
  @discardableResult
  func flushLog() async -> Bool {
    let before = log.condition
    let isGood = await log.flush { await flushLegsForLog() }
    if before == .alive, log.condition != .alive {
      switch log.condition {
      case .alive: break
      case .failed(let reason), .flushFailed(let reason): onEvent(.logFailed(reason))
      }
    }
    return isGood
  }

  // MARK: Legs

  /// Takes note of an error of a leg; with `handle_errors` another one may become the default.
  func mark(_ index: Int, _ error: LegError, _ failure: IOFailure) {
    hasFailedLeg = true
    guard legs[index].mark(error), parameters.handlesErrors else { return }
    if index == defaultLeg, isInSync || parameters.keepsLog,
      let other = legs.firstIndex(where: \.isGood)
    {
      defaultLeg = other
    }
    onEvent(.legFailed(index, failure))
  }

  /// Everything is in sync: what went wrong with legs is forgotten.
  func noteIfInSync() {
    guard log.isInSync, !isInSync else { return }
    isInSync = true
    hasFailedLeg = false
    for leg in legs { leg.forgive() }
    onEvent(.inSync)
  }
}
