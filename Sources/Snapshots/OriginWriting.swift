import BlockIO
import Kcopyd
import SystemPackage

// Writes to the origin, and what they set going: exceptions for all snapshots that lack them.

extension Origin {
  /// The most sectors of one request that are dealt with at once: bounds how many exceptions a
  /// single write makes.
  static let pieceLimit = Sector(holding: 4 << 20)

  /// Writes to the origin, after every snapshot has what it is about to lose.
  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    var rest = sectors
    while !rest.isEmpty {
      let piece = rest.lowerBound..<min(rest.upperBound, rest.lowerBound + Self.pieceLimit)
      let part = buffer.slice(piece.lowerBound - sectors.lowerBound, piece.length)
      for snapshot in active { await snapshot.copies.waitBelowLimit() }
      await beginWrite()
      defer { endWrite() }
      if let merging = active.first(where: { $0.merge != nil }) {
        try await write(piece, from: part, options: options, over: merging)
      } else {
        await preserve(piece)
        noteSettled(piece)
        try await underlying.write(piece, from: part, options: options)
      }
      rest = piece.upperBound..<rest.upperBound
    }
  }

  /// Returns when every active snapshot holds its own durable copy of `sectors` or has become
  /// invalid, and no read that a snapshot had sent to them is under way.
  ///
  /// - Parameter mayStandBack: whether others may make the origin stand still while this waits for
  ///   room, which can take long. All is looked at again then.
  func preserve(_ sectors: Range<Sector>, mayStandBack: Bool = true) async {
    while true {
      var plan = ExceptionPlan()
      for snapshot in active where snapshot.isActive { plan.add(snapshot, sectors) }
      startCopies(plan.fresh)
      if plan.isSettled { break }
      for pending in plan.waits { await pending.wait() }
      for snapshot in plan.marking { await snapshot.waitUntilMarkedInvalid() }
      // Who has waited looks again first: others may have made what there was no room for.
      guard plan.waits.isEmpty, plan.marking.isEmpty, let starving = plan.starving.first else {
        continue
      }
      if mayStandBack { endWrite() }
      await makeRoom(for: starving, isOriginWrite: true)
      if mayStandBack { await beginWrite() }
    }
    for snapshot in active where !snapshot.originReads.isClear(of: sectors) {
      await snapshot.originReads.drain(sectors)
    }
  }

  // MARK: Copies

  /// Starts copying chunks, each sector of the origin read once for all snapshots that want it.
  func startCopies(_ wanted: [(snapshot: Snapshot, exceptions: [PendingException])]) {
    guard !wanted.isEmpty else { return }
    let extents = wanted.map { $0.snapshot.extents(of: $0.exceptions) }
    let pieces = FanOut.pieces(extents)
    for piece in pieces {
      for target in piece.targets {
        for pending in wanted[target.snapshot].snapshot.pending(in: piece.origin) {
          pending.transfersLeft += 1
        }
      }
    }
    let snapshots = wanted.map(\.snapshot)
    for piece in pieces {
      var rest = piece.targets[...]
      while !rest.isEmpty {
        let targets = rest.prefix(KcopydClient.maximumDestinations)
        rest = rest.dropFirst(targets.count)
        let pairs = targets.map { (snapshots[$0.snapshot], $0.cow) }
        Task.immediate(executorPreference: loop) { await self.copy(piece.origin, to: pairs) }
      }
    }
  }

  /// Copies sectors of the origin to the COW devices, and passes on what has become of it.
  private func copy(_ sectors: Range<Sector>, to targets: [(Snapshot, Sector)]) async {
    let regions = targets.map { IORegion($0.0.cow, sector: $0.1, count: sectors.length) }
    var failures: [IOFailure?] = targets.map { _ in nil }
    do throws(KcopydError) {
      let result = try await client.copy(
        from: IORegion(underlying, sector: sectors.lowerBound, count: sectors.length),
        to: regions, options: regions.count > 1 ? .dropFailedDestinations : [])
      if !result.isComplete {
        for (index, destination) in result.destinations.enumerated()
        where !destination.missing.isEmpty {
          failures[index] =
            destination.failures.entries.first?.failure
            ?? result.readFailures.entries.first?.failure
            ?? IOFailure(.write, targets[index].0.cow.name, errno: .ioError)
        }
      }
    } catch {
      let failure = IOFailure(
        .write, underlying.name, sectors, errno: .ioError, detail: error.description)
      failures = targets.map { _ in failure }
    }
    for (index, target) in targets.enumerated() {
      for pending in target.0.pending(in: sectors) { pending.transferEnded(failures[index]) }
      commitReady(target.0)
    }
  }

  // MARK: Commits

  /// Starts committing what is ready, unless that is going on.
  func commitReady(_ snapshot: Snapshot) {
    guard !snapshot.isCommitting, snapshot.uncommitted.first?.isReady == true else { return }
    snapshot.isCommitting = true
    Task.immediate(executorPreference: loop) { await self.commit(snapshot) }
  }

  /// Commits in the order of allocation, each time all that is ready, until nothing is.
  private func commit(_ snapshot: Snapshot) async {
    while let batch = snapshot.readyBatch() {
      let failure = batch.lazy.compactMap(\.failure).first
      if let failure, snapshot.isValid {
        await invalidate(snapshot, "a chunk could not be copied: \(failure)")
      } else if let store = snapshot.store, snapshot.isValid {
        do throws(IOFailure) {
          try await store.commit(batch.map(\.exception))
        } catch {
          await invalidate(snapshot, "its store could not be written: \(error)")
        }
      }
      snapshot.finish(batch)
    }
    snapshot.isCommitting = false
  }

  // MARK: Room

  /// Makes room in a full COW device, or decides what becomes of the snapshot. The caller has found it
  /// full in the same step, and looks again afterwards.
  func makeRoom(for snapshot: Snapshot, isOriginWrite: Bool) async {
    snapshot.waitingForRoom += 1
    defer { snapshot.waitingForRoom -= 1 }
    guard !snapshot.isMakingRoom else {
      return await snapshot.roomMade.wait { snapshot.isMakingRoom }
    }
    snapshot.isMakingRoom = true
    defer {
      snapshot.isMakingRoom = false
      snapshot.roomMade.open()
    }
    // As it is now: others who find room meanwhile need more, but don't make this one lack it.
    let needed = snapshot.store?.sizeForNext ?? Sector(.max)
    guard await !hasRoom(snapshot, needed), await !grow(snapshot, to: needed), snapshot.isValid
    else { return }
    let overflows = !isOriginWrite && snapshot.parameters.store == .persistentWithOverflow
    if overflows {
      snapshot.isOverflowed = true
      return snapshot.onEvent(.overflowed)
    }
    if case .hold(let limit) = snapshot.parameters.whenFull {
      let deadline = loop.now.advanced(by: limit)
      snapshot.isHolding = true
      defer { snapshot.isHolding = false }
      snapshot.onEvent(.holding)
      while loop.now < deadline, !snapshot.isClosing {
        await loop.sleep(for: .milliseconds(50))
        guard await !hasRoom(snapshot, needed), snapshot.isValid else { return }
      }
    }
    await invalidate(snapshot, "no room for another chunk in '\(snapshot.cow.name)'")
  }

  /// Whether the COW device is as large as needed – now: it may have been made larger.
  private func hasRoom(_ snapshot: Snapshot, _ needed: Sector) async -> Bool {
    do throws(IOFailure) { try await snapshot.cow.refreshSize() } catch { return false }
    return needed <= snapshot.cow.wholeSectorCount
  }

  /// Makes the COW device larger, if that is allowed and possible.
  private func grow(_ snapshot: Snapshot, to needed: Sector) async -> Bool {
    guard let limit = snapshot.parameters.growthLimit, needed <= limit else { return false }
    // A quarter more each time: few steps, and not much too much.
    let size = snapshot.cow.wholeSectorCount
    let step = max(snapshot.chunkSize.sectors * 64, Sector(size.rawValue / 4))
    let target = min(limit, max(needed, size + step))
    do throws(IOFailure) {
      try await snapshot.cow.grow(to: target)
    } catch {
      return false
    }
    snapshot.onEvent(.grown(snapshot.cow.wholeSectorCount))
    return needed <= snapshot.cow.wholeSectorCount
  }

  // MARK: Loss

  /// Declares a snapshot lost. When this returns its store says so on the disk: only then may an
  /// origin write go on without having been copied.
  func invalidate(_ snapshot: Snapshot, _ reason: String) async {
    guard snapshot.invalidity == nil else { return await snapshot.waitUntilMarkedInvalid() }
    snapshot.lose(reason)
    snapshot.isMarkingInvalid = true
    do throws(IOFailure) {
      try await snapshot.store?.invalidate()
    } catch {
      // Nothing more can be done: the store says valid and isn't. It has to be said, at least.
      snapshot.lose("\(reason); and its store could not be marked invalid: \(error)")
    }
    snapshot.isMarkingInvalid = false
    snapshot.markedInvalid.open()
    snapshot.onEvent(.invalidated(snapshot.invalidity ?? reason))
  }
}

/// What has to be done before sectors of the origin may change.
private struct ExceptionPlan {
  /// Exceptions that were made for it, to be copied.
  var fresh: [(snapshot: Snapshot, exceptions: [PendingException])] = []
  /// Exceptions to wait for, those included.
  var waits: [PendingException] = []
  /// Snapshots without room.
  var starving: [Snapshot] = []
  /// Snapshots being marked invalid.
  var marking: [Snapshot] = []

  var isSettled: Bool { waits.isEmpty && starving.isEmpty && marking.isEmpty }

  /// Looks at one snapshot.
  mutating func add(_ snapshot: Snapshot, _ sectors: Range<Sector>) {
    if snapshot.isMarkingInvalid { marking.append(snapshot) }
    guard snapshot.wantsCopies else { return }
    let covered = sectors.clamped(to: .zero..<snapshot.sectorCount)
    let chunks: Range<OriginChunk> = snapshot.chunkSize.chunks(touching: covered)
    var new: [PendingException] = []
    snapshot.forEachMissing(in: chunks) { chunk in
      if let pending = snapshot.pending[chunk] {
        waits.append(pending)
      } else if let pending = snapshot.makePending(chunk) {
        new.append(pending)
      } else {
        starving.append(snapshot)
        return false
      }
      return true
    }
    waits += new
    if !new.isEmpty { fresh.append((snapshot, new)) }
  }
}

extension Snapshot {
  /// Whether sectors of the origin may change now, as far as this snapshot is concerned.
  func isSettled(_ sectors: Range<Sector>) -> Bool {
    guard merge == nil, !isMarkingInvalid, copies.isBelowLimit, originReads.isClear(of: sectors)
    else { return false }
    guard wantsCopies else { return true }
    var isComplete = true
    let covered = sectors.clamped(to: .zero..<sectorCount)
    forEachMissing(in: chunkSize.chunks(touching: covered)) { _ in
      isComplete = false
      return false
    }
    return isComplete
  }

  /// Calls `body` with each chunk that has no completed exception, until it returns false.
  func forEachMissing(in chunks: Range<OriginChunk>, _ body: (OriginChunk) -> Bool) {
    var chunk = chunks.lowerBound
    while chunk < chunks.upperBound {
      let run = completed.run(from: chunk.rawValue)
      let end = min(chunks.upperBound, OriginChunk(run?.key ?? .max))
      while chunk < end {
        guard body(chunk) else { return }
        chunk = chunk.advanced(by: 1)
      }
      if let run, chunk < chunks.upperBound { chunk = OriginChunk(run.keys.upperBound) }
    }
  }

  /// Takes a chunk of the COW device for one of the origin; nil if there is no room.
  func makePending(_ chunk: OriginChunk) -> PendingException? {
    guard let new = store?.allocate() else { return nil }
    let made = PendingException(Exception(old: chunk, new: new))
    pending[chunk] = made
    uncommitted.append(made)
    beginCopies(1)
    return made
  }

  /// The exceptions under way for chunks that share a sector with `sectors`.
  func pending(in sectors: Range<Sector>) -> [PendingException] {
    chunkSize.chunks(touching: sectors).compactMap { pending[$0] }
  }

  /// What is to be copied for exceptions under way, neighbours joined; ascending.
  func extents(of exceptions: [PendingException]) -> [FanOut.Extent] {
    extents(of: exceptions.lazy.map(\.exception), upTo: origin.sectorCount)
  }

  /// Where the chunks of these exceptions – ascending on the origin – are on both devices, up to
  /// `end` of the origin; neighbours joined.
  func extents(of exceptions: some Sequence<Exception>, upTo end: Sector) -> [FanOut.Extent] {
    var extents: [FanOut.Extent] = []
    for exception in exceptions {
      let origin = chunkSize.sectors(of: exception.old).clamped(to: .zero..<end)
      let cow = chunkSize.start(of: exception.new)
      guard !origin.isEmpty else { continue }
      if let last = extents.last, last.origin.upperBound == origin.lowerBound,
        last.cow + last.origin.length == cow
      {
        extents[extents.count - 1].origin = last.origin.lowerBound..<origin.upperBound
      } else {
        extents.append(FanOut.Extent(origin: origin, cow: cow))
      }
    }
    return extents
  }

  /// The exceptions at the head of the queue whose data are there, as many as one commit takes.
  func readyBatch() -> [PendingException]? {
    var batch: [PendingException] = []
    let limit = isValid ? store?.commitLimit ?? .max : .max
    while batch.count < limit, let first = uncommitted.first, first.isReady {
      batch.append(first)
      uncommitted.removeFirst()
    }
    return batch.isEmpty ? nil : batch
  }

  /// The commit of these exceptions is over: well, if the snapshot is still valid.
  func finish(_ batch: [PendingException]) {
    endCopies(batch.count)
    for done in batch {
      let exception = done.exception
      if isValid {
        let isNew = completed.insert(exception.old.rawValue, exception.new.rawValue)
        precondition(isNew, "a second exception for a chunk")
      }
      pending[exception.old] = nil
      done.finish(isCompleted: isValid)
    }
  }
}

extension PendingException {
  /// One of the transfers it waits for is over.
  func transferEnded(_ failure: IOFailure?) {
    transfersLeft -= 1
    if let failure, self.failure == nil { self.failure = failure }
  }
}
