public import BlockIO
import Kcopyd
import Synchronization
import SystemPackage

/// A device with its snapshots: the state behind snapshot-origin, snapshot and snapshot-merge.
///
/// Whoever writes to the device must do so through ``device`` while there are snapshots. Everything
/// about one origin lives on this actor, on its loop; between two suspensions nothing else happens,
/// which is what makes the decisions – is there an exception, is one under way, make one – safe.
///
/// What an origin write waits for, in this order: the copy of its chunks durable in every snapshot
/// with the exceptions that say so, and the end of every read that a snapshot had sent to these
/// sectors before. An error of a snapshot never fails it.
public actor Origin {
  /// The device below, as it was opened.
  public nonisolated let underlying: any BlockDevice
  /// The loop on which everything runs.
  public nonisolated let loop: IOLoop
  /// Copies chunks to the COW devices, and back when merging.
  nonisolated let client: KcopydClient

  /// The most exceptions that one step of a merge takes.
  nonisolated let mergeStepExceptions: Int

  public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  /// Whether a snapshot is being merged: only then reads have to be looked at.
  nonisolated let hasMerge = Atomic<Bool>(false)

  var snapshots: [SnapshotID: Snapshot] = [:]
  /// The snapshots that see origin writes, largest chunks first.
  var active: [Snapshot] = []
  /// Chunks that all of those have.
  private let settled = SettledChunks()
  private var snapshotCount = 0
  /// COW devices whose stores are being opened.
  private var opening = Set<DeviceIdentity>()

  /// Writes under way, steps of a merge among them.
  private let writes = Quota(limit: 0)
  /// How many want the origin to stand still.
  private var stops = 0
  private let started = Gate()

  /// The origin of snapshots.
  ///
  /// - Parameters:
  ///   - device: the device that is snapshotted.
  ///   - throttle: slows down copying and merging of all snapshots made with the same one: the
  ///     kernel's `snapshot_copy_throttle`.
  ///   - loop: where everything runs.
  public init(
    _ device: any BlockDevice, throttle: Throttle? = nil, on loop: IOLoop
  ) throws(SnapshotError) {
    do throws(KcopydError) {
      self.init(device, client: try KcopydClient(throttle: throttle, on: loop), on: loop)
    } catch {
      throw .io(IOFailure(.reservePages, device.name, errno: .noMemory))
    }
  }

  /// The origin of snapshots, with a client of its own that copies on `loop`.
  init(
    _ device: any BlockDevice, client: KcopydClient, mergeStepExceptions: Int = 1024,
    on loop: IOLoop
  ) {
    underlying = device
    self.mergeStepExceptions = mergeStepExceptions
    self.loop = loop
    self.client = client
  }

  /// The origin as others see it: write to this one.
  public nonisolated var device: OriginDevice { OriginDevice(self) }

  // MARK: Snapshots

  /// Adds a snapshot, not active yet: origin writes aren't copied for it before
  /// ``SnapshotDevice/resume()``.
  ///
  /// A COW device that holds a store is carried on with; one whose first four bytes are zero gets a
  /// new store. If there is a snapshot on that COW device already, the new one takes its store
  /// over when it is resumed, which needs the other one suspended.
  ///
  /// - Parameters:
  ///   - cow: where chunks go; nobody else's while the snapshot lives.
  ///   - parameters: store, chunk size, features.
  ///   - sectorCount: the length; nil for that of the origin.
  ///   - mustExist: whether a device without a store is refused.
  ///   - onEvent: called on the loop when something happens to the snapshot.
  public func addSnapshot(
    cow: any BlockDevice, parameters: SnapshotParameters = SnapshotParameters(),
    sectorCount: Sector? = nil, mustExist: Bool = false,
    onEvent: @escaping @Sendable (SnapshotEvent) -> Void = { _ in }
  ) async throws(SnapshotError) -> SnapshotDevice {
    let snapshot = try await add(
      cow: cow, parameters: parameters, sectorCount: sectorCount, mustExist: mustExist,
      isMerge: false, onEvent: onEvent)
    return SnapshotDevice(self, snapshot)
  }

  /// Adds a snapshot that will be merged into the origin from ``MergeDevice/resume()`` on. At most
  /// one of an origin.
  public func addMerge(
    cow: any BlockDevice, parameters: SnapshotParameters = SnapshotParameters(),
    sectorCount: Sector? = nil,
    onEvent: @escaping @Sendable (SnapshotEvent) -> Void = { _ in }
  ) async throws(SnapshotError) -> MergeDevice {
    let snapshot = try await add(
      cow: cow, parameters: parameters, sectorCount: sectorCount, mustExist: true, isMerge: true,
      onEvent: onEvent)
    return MergeDevice(self, snapshot)
  }

  private func add(
    cow: any BlockDevice, parameters: SnapshotParameters, sectorCount: Sector?, mustExist: Bool,
    isMerge: Bool, onEvent: @escaping @Sendable (SnapshotEvent) -> Void
  ) async throws(SnapshotError) -> Snapshot {
    guard !cow.sharesSectors(with: underlying) else { throw .originIsCow(cow.name) }
    let length = sectorCount ?? underlying.sectorCount
    guard length <= underlying.sectorCount else {
      throw .originTooSmall(
        origin: underlying.name, sectors: underlying.sectorCount, needed: length)
    }
    let others = snapshots.values.filter { $0.cow.identity == cow.identity }
    guard others.count < 2, opening.insert(cow.identity).inserted else {
      throw .state("'\(cow.name)' is in use, and another snapshot waits for it already")
    }
    defer { opening.remove(cow.identity) }
    let predecessor = others.first
    try checkMerge(isMerge, parameters, after: predecessor)
    snapshotCount += 1
    let id = SnapshotID(rawValue: snapshotCount)
    let snapshot: Snapshot
    if let predecessor {
      snapshot = Snapshot(
        id: id, origin: underlying, cow: cow, sectorCount: length, parameters: parameters,
        chunkSize: predecessor.chunkSize, settled: settled, onEvent: onEvent)
      snapshot.predecessor = predecessor.id
      predecessor.successor = id
    } else {
      snapshot = try await opened(
        id, cow, parameters, length, mustExist: mustExist, onEvent: onEvent)
      // Another one may have come while this one was read.
      try checkMerge(isMerge, parameters, after: nil)
    }
    if isMerge { snapshot.merge = MergeState() }
    snapshots[id] = snapshot
    return snapshot
  }

  private func checkMerge(
    _ isMerge: Bool, _ parameters: SnapshotParameters, after predecessor: Snapshot?
  ) throws(SnapshotError) {
    guard isMerge else { return }
    guard parameters.store.isPersistent, predecessor?.store is PersistentStore? else {
      throw .state("a transient snapshot can't be merged")
    }
    let merging = snapshots.values.first { $0.merge != nil && $0.id != predecessor?.id }
    if let merging {
      throw .state("'\(merging.cow.name)' is being merged into this origin already")
    }
  }

  /// Opens or makes the store.
  private func opened(
    _ id: SnapshotID, _ cow: any BlockDevice, _ parameters: SnapshotParameters, _ length: Sector,
    mustExist: Bool, onEvent: @escaping @Sendable (SnapshotEvent) -> Void
  ) async throws(SnapshotError) -> Snapshot {
    let opened = try await OpenedStore(
      cow: cow, origin: underlying, parameters, mustExist: mustExist, on: loop)
    let snapshot = Snapshot(
      id: id, origin: underlying, cow: cow, sectorCount: length, parameters: parameters,
      chunkSize: opened.store.chunkSize, settled: settled, onEvent: onEvent)
    snapshot.store = opened.store
    snapshot.completed = opened.exceptions
    snapshot.isFresh = opened.isFresh
    if !opened.isValid { snapshot.lose("its store was marked invalid before") }
    return snapshot
  }

  // MARK: Resume, suspend, remove

  /// Makes a snapshot live: its point in time is now, if its store is new.
  func resume(_ snapshot: Snapshot) async throws(SnapshotError) {
    try checkOrder(snapshot)
    await standStill()
    defer { goOn() }
    // Requests that came after it was suspended: what they make must not be left behind.
    while let id = snapshot.predecessor, let busy = snapshots[id]?.requests, busy.count > 0 {
      await busy.waitForNone()
    }
    try await renewHeader(snapshot)
    // All of it may have changed meanwhile.
    try checkOrder(snapshot)
    if let id = snapshot.predecessor, let predecessor = snapshots[id] {
      snapshot.takeOver(predecessor)
      active.removeAll { $0.id == id }
    }
    snapshot.isSuspended = false
    if !snapshot.isActive { activate(snapshot) }
    if snapshot.merge != nil {
      hasMerge.store(true, ordering: .relaxed)
      startMerging(snapshot)
    }
  }

  private func activate(_ snapshot: Snapshot) {
    snapshot.isActive = true
    snapshot.isFresh = false
    active.append(snapshot)
    active.sort {
      ($0.chunkSize.sectors, $1.id.rawValue) > ($1.chunkSize.sectors, $0.id.rawValue)
    }
    settled.forget(active.lazy.map(\.chunkSize))
  }

  /// A snapshot that goes gives its store back to the one that it had it from, if that is still
  /// there: the table that it belongs to wasn't to be after all.
  private func handBack(_ snapshot: Snapshot) {
    // Of a merge and what isn't one, one can't go on where the other one has been.
    guard let id = snapshot.takenFrom, let former = snapshots[id], former.store == nil,
      !former.isClosing, (former.merge == nil) == (snapshot.merge == nil)
    else { return }
    former.takeOver(snapshot)
    former.takenFrom = nil
    if snapshot.isActive { activate(former) }
  }

  /// Makes sure that a store without exceptions is there after a loss of power. Whoever made it may
  /// have failed at that: what was read then need not be on the disk.
  private func renewHeader(_ snapshot: Snapshot) async throws(SnapshotError) {
    guard !snapshot.isActive, !snapshot.isFresh, snapshot.isValid, snapshot.merge == nil,
      snapshot.completed.isEmpty, !snapshot.cow.limits.isReadOnly,
      let store = snapshot.store as? PersistentStore
    else { return }
    do throws(IOFailure) {
      try await store.renewHeader()
    } catch {
      throw .io(error)
    }
  }

  private func checkOrder(_ snapshot: Snapshot) throws(SnapshotError) {
    guard snapshots[snapshot.id] != nil else { throw .state("the snapshot has been removed") }
    if let id = snapshot.predecessor {
      guard let predecessor = snapshots[id] else {
        return snapshot.lose("the snapshot whose store it was to take over has gone")
      }
      guard predecessor.isSuspended else {
        throw .state("the snapshot whose store it takes over isn't suspended")
      }
    }
    if snapshot.successor != nil {
      throw .state("another snapshot waits to take its store over")
    }
    let isMerging = active.contains { $0.merge?.isFinished == false && $0.isValid }
    if snapshot.isFresh, !snapshot.isActive, isMerging {
      throw .state(
        "a merge into the origin is going on: a snapshot now would show a part of it; "
          + "wait for its end")
    }
  }

  /// Waits until nothing is under way for the snapshot; a merge stops after its current step.
  func suspend(_ snapshot: Snapshot) async {
    snapshot.isSuspended = true
    await stopMerging(snapshot)
    await snapshot.requests.waitForNone()
  }

  /// Takes a snapshot away. What its COW device holds stays as it is. If the one whose store it has
  /// taken over is there still, that one has it again.
  func remove(_ snapshot: Snapshot) async {
    snapshot.isClosing = true
    await suspend(snapshot)
    await standStill()
    defer { goOn() }
    active.removeAll { $0.id == snapshot.id }
    while snapshot.requests.count + snapshot.copies.count > 0 {
      await snapshot.requests.waitForNone()
      await snapshot.copies.waitForNone()
    }
    if snapshot.successor == nil { handBack(snapshot) }
    // Only now: whoever opens the store again must find all that was made in it.
    snapshots[snapshot.id] = nil
    if let id = snapshot.predecessor { snapshots[id]?.successor = nil }
    if let id = snapshot.successor, let successor = snapshots[id], successor.store == nil {
      successor.lose("the snapshot whose store it was to take over has been removed")
    }
    if snapshot.merge != nil {
      hasMerge.store(active.contains { $0.merge != nil }, ordering: .relaxed)
    }
  }

  // MARK: Writes and standing still

  func beginWrite() async {
    while stops > 0 { await started.wait { stops > 0 } }
    writes.add(1)
  }

  /// Begins a write in the calling task, if that runs on the loop and nothing has to be done
  /// before: every snapshot has its copies, nothing is read there, nobody has to wait.
  nonisolated func beginWriteHere(_ sectors: Range<Sector>) -> Bool {
    loop.isCurrent
      && assumeIsolated { origin in
        guard origin.stops == 0, origin.isSettled(sectors) else { return false }
        origin.writes.add(1)
        return true
      }
  }

  /// Whether sectors may change now, as far as all snapshots are concerned.
  private func isSettled(_ sectors: Range<Sector>) -> Bool {
    guard let chunk = settled.chunk(around: sectors) else {
      return active.allSatisfy { $0.isSettled(sectors) }
    }
    // The second look is for a read elsewhere in the chunk, or the end of a snapshot in it.
    return settled.knows(chunk) || noteIfSettled(chunk)
      || active.allSatisfy { $0.isSettled(sectors) }
  }

  private func noteIfSettled(_ chunk: OriginChunk) -> Bool {
    let whole = settled.sectors(of: chunk)
    guard active.allSatisfy({ $0.isSettled(whole) }) else { return false }
    settled.note(chunk)
    return true
  }

  /// Takes note that the snapshots have what is about to be written, so that the next write there
  /// needn't look.
  func noteSettled(_ sectors: Range<Sector>) {
    if let chunk = settled.chunk(around: sectors) { _ = noteIfSettled(chunk) }
  }

  /// Ends it.
  nonisolated func endWriteHere() { assumeIsolated { $0.endWrite() } }

  func endWrite() { writes.remove(1) }

  /// Waits until no write is under way, and keeps others from starting.
  private func standStill() async {
    stops += 1
    await writes.waitForNone()
  }

  private func goOn() {
    stops -= 1
    if stops == 0 { started.open() }
  }
}

extension Snapshot {
  /// Becomes the owner of another snapshot's store.
  func takeOver(_ other: Snapshot) {
    store = other.store
    completed = other.completed
    isFresh = other.isFresh
    isOverflowed = other.isOverflowed
    if let reason = other.invalidity { lose(reason) }
    other.store = nil
    other.completed = RunMap()
    other.successor = nil
    predecessor = nil
    takenFrom = other.id
    isActive = false
    if let former = other.merge, former.isClearing {
      // What the store has of these nobody knows before they have been cleared once more.
      merge?.merging = former.merging
      merge?.isClearing = true
    }
    guard other.merge != nil, merge == nil, let store = store as? PersistentStore else { return }
    completed.forEachRun { store.allocate(behind: CowChunk($0.value + $0.count - 1)) }
  }
}
