import BlockIO
import Kcopyd
import Synchronization
import SystemPackage

// Merging a snapshot into its origin: from the last exception of the store to the first, several
// runs at a time. Chunks are durable on the origin before their exceptions are cleared, and these
// are cleared from the end, so that a loss of power at any point leaves a store that a merge goes
// on with.

/// The merge of a snapshot.
final class MergeState {
  /// Why it has stopped for good.
  var failure: String?
  /// Whether all exceptions have gone.
  var isFinished = false
  var isRunning = false
  var mustStop = false
  /// The chunks being merged right now: writes to them wait. If clearing their exceptions fails,
  /// they stay here and such writes fail: whether a later merge begins with what the COW device
  /// holds of them or with what the origin does, nobody knows.
  var merging = RangeSet<Sector>()
  /// Whether exceptions are being cleared.
  var isClearing = false
  /// A step is over, or the merge.
  let changed = Gate()
  /// Writes to chunks that have an exception, on the COW device.
  let cowWrites = TrackedRequests()
}

extension Origin {
  /// The most data of one step. More take longer to hold up writes, fewer need more flushes.
  static let mergeStepLimit = Sector(holding: 8 << 20)

  // MARK: Steps

  /// Starts merging, or goes on with it.
  func startMerging(_ snapshot: Snapshot) {
    guard let merge = snapshot.merge, !merge.isRunning, merge.failure == nil, !merge.isFinished
    else { return }
    merge.mustStop = false
    merge.isRunning = true
    Task { await withTaskExecutorPreference(loop) { await self.mergeAll(snapshot, merge) } }
  }

  /// Ends merging after the current step.
  func stopMerging(_ snapshot: Snapshot) async {
    guard let merge = snapshot.merge else { return }
    merge.mustStop = true
    await merge.changed.wait { merge.isRunning }
  }

  /// Waits until the merge has ended, one way or another.
  func waitForMerge(_ snapshot: Snapshot) async {
    guard let merge = snapshot.merge else { return }
    await merge.changed.wait { merge.isRunning }
  }

  private func mergeAll(_ snapshot: Snapshot, _ merge: MergeState) async {
    do throws(IOFailure) {
      while !merge.mustStop, snapshot.isValid, !merge.isFinished {
        await beginWrite()
        defer { endWrite() }
        merge.isFinished = try await !mergeStep(snapshot, merge)
      }
      if merge.isFinished { snapshot.onEvent(.merged) }
    } catch {
      merge.failure = error.description
      snapshot.onEvent(.mergeFailed(error.description))
    }
    if !merge.isClearing { merge.merging = RangeSet() }
    merge.isRunning = false
    merge.changed.open()
  }

  /// Merges some exceptions from the end of the store; false if there was none.
  private func mergeStep(_ snapshot: Snapshot, _ merge: MergeState) async throws(IOFailure) -> Bool
  {
    guard let store = snapshot.store as? PersistentStore else { return false }
    let exceptions = Array(try await store.tail(mergeStepCount(snapshot)))
    guard !exceptions.isEmpty else { return false }
    // Only what the snapshot shows: what lies behind its end in its last chunk has not been copied
    // for it when it changed.
    let extents = snapshot.extents(
      of: exceptions.sorted { $0.old < $1.old }, upTo: snapshot.sectorCount)
    for extent in extents { await preserve(extent.origin, mayStandBack: false) }
    for extent in extents { merge.merging.insert(extent.origin) }
    for extent in extents { await merge.cowWrites.drain(extent.origin) }
    let failure = await copyBack(extents, from: snapshot.cow)
    // What follows the last one that failed is merged, and may be cleared.
    let isGood = { (exception: Exception) in
      failure?.sectors.isDisjoint(RangeSet(snapshot.originSectors(of: exception.old))) ?? true
    }
    let merged = exceptions[(exceptions.lastIndex { !isGood($0) }.map { $0 + 1 } ?? 0)...]
    try await clear(merged, of: snapshot, merge)
    if let failure { throw failure.reason }
    return true
  }

  /// Clears exceptions whose chunks have been merged, the last ones of the store.
  private func clear(
    _ merged: ArraySlice<Exception>, of snapshot: Snapshot, _ merge: MergeState
  ) async throws(IOFailure) {
    if let store = snapshot.store as? PersistentStore, !merged.isEmpty {
      try await underlying.flush()
      merge.isClearing = true
      try await store.clearTail(merged.count)
      merge.isClearing = false
      for exception in merged {
        snapshot.completed.remove(exception.old.rawValue..<exception.old.rawValue + 1)
      }
    }
    merge.merging = RangeSet()
    merge.changed.open()
  }

  private func mergeStepCount(_ snapshot: Snapshot) -> Int {
    let bySize = Self.mergeStepLimit.rawValue / snapshot.chunkSize.sectors.rawValue
    return min(mergeStepExceptions, max(1, Int(bySize)))
  }

  /// What couldn't be copied to the origin.
  private struct CopyBackFailure: Sendable {
    var sectors: RangeSet<Sector>
    let reason: IOFailure
  }

  /// Copies chunks to the origin, all at once.
  private func copyBack(
    _ extents: [FanOut.Extent], from cow: any BlockDevice
  ) async -> CopyBackFailure? {
    await withTaskGroup { group in
      for extent in extents {
        group.addTask(executorPreference: loop) { [client, underlying] in
          await Self.copyBack(extent, from: cow, to: underlying, with: client)
        }
      }
      var all: CopyBackFailure?
      for await failure in group {
        guard let failure else { continue }
        if all == nil { all = failure } else { all?.sectors.formUnion(failure.sectors) }
      }
      return all
    }
  }

  private static func copyBack(
    _ extent: FanOut.Extent, from cow: any BlockDevice, to origin: any BlockDevice,
    with client: KcopydClient
  ) async -> CopyBackFailure? {
    let count = extent.origin.length
    do throws(KcopydError) {
      let result = try await client.copy(
        from: IORegion(cow, sector: extent.cow, count: count),
        to: [IORegion(origin, sector: extent.origin.lowerBound, count: count)])
      guard !result.isComplete else { return nil }
      var missing = RangeSet<Sector>()
      for range in result.destinations[0].missing.ranges {
        missing.insert(range.shifted(by: extent.origin.lowerBound))
      }
      let reason =
        result.readFailures.entries.first?.failure
        ?? result.destinations[0].failures.entries.first?.failure
        ?? IOFailure(.write, origin.name, extent.origin, errno: .ioError)
      return CopyBackFailure(sectors: missing, reason: reason)
    } catch {
      let reason = IOFailure(
        .write, origin.name, extent.origin, errno: .ioError, detail: error.description)
      return CopyBackFailure(sectors: RangeSet(extent.origin), reason: reason)
    }
  }

  // MARK: Requests meanwhile

  /// Reads the origin as if the merge were done already.
  func readMerged(
    _ name: String, _ sectors: Range<Sector>, into buffer: IOBuffer
  ) async throws(IOFailure) {
    guard let snapshot = active.first(where: { $0.merge != nil }), snapshot.isValid else {
      return try await underlying.read(sectors, into: buffer)
    }
    snapshot.requests.add(1)
    defer { snapshot.requests.remove(1) }
    let reads = snapshot.pieces(of: sectors).map { piece in
      PieceRead(
        device: piece.cow == nil ? underlying : snapshot.cow, sectors: piece.target,
        buffer: buffer.slice(piece.sectors.lowerBound - sectors.lowerBound, piece.sectors.length),
        name: name, asked: piece.sectors)
    }
    try await PieceRead.all(reads, on: loop)
  }

  /// What is known of the origin as if the merge were done already. Chunks move to the origin
  /// meanwhile, and what is asked about stays where it was as well.
  func mergedBlockStatus(
    _ name: String, _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    guard let snapshot = active.first(where: { $0.merge != nil }), snapshot.isValid else {
      return try await underlying.blockStatus(sectors, limit: limit)
    }
    snapshot.requests.add(1)
    defer { snapshot.requests.remove(1) }
    return try await extents(
      of: snapshot.pieces(of: sectors), over: snapshot, name, limit: limit)
  }

  /// Writes while a snapshot is being merged: to the COW device what hasn't been merged yet, to the
  /// origin all else, after the other snapshots have got theirs.
  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions, over snapshot: Snapshot
  ) async throws(IOFailure) {
    guard let merge = snapshot.merge else { preconditionFailure("not a merge") }
    let data = SectorData(sectors: sectors, buffer: buffer)
    var rest = sectors
    while !rest.isEmpty {
      guard snapshot.isValid, let piece = snapshot.pieces(of: rest).first, piece.cow != nil else {
        // Up to the next chunk that hasn't been merged yet.
        let end =
          snapshot.isValid
          ? snapshot.pieces(of: rest).first?.sectors.upperBound ?? rest.upperBound
          : rest.upperBound
        let part = rest.lowerBound..<end
        await preserve(part)
        try await underlying.write(part, from: data.part(part), options: options)
        rest = end..<rest.upperBound
        continue
      }
      if !merge.merging.isDisjoint(RangeSet(piece.sectors)) {
        await merge.changed.wait {
          merge.failure == nil && !merge.merging.isDisjoint(RangeSet(piece.sectors))
        }
        if let failure = merge.failure {
          throw IOFailure(
            .write, underlying.name, piece.sectors, errno: .ioError,
            detail: "the merge of these sectors failed: \(failure)")
        }
        continue
      }
      let number = merge.cowWrites.begin(piece.sectors)
      defer { merge.cowWrites.end(number) }
      do throws(IOFailure) {
        try await snapshot.cow.write(
          piece.target, from: data.part(piece.sectors), options: options)
      } catch {
        throw error.at(piece.sectors, of: underlying.name)
      }
      rest = piece.sectors.upperBound..<rest.upperBound
    }
  }

  /// Makes durable what was written while a snapshot is being merged.
  func flushMerged() async throws(IOFailure) {
    if let snapshot = active.first(where: { $0.merge != nil }), snapshot.isValid {
      try await snapshot.cow.flush()
    }
    try await underlying.flush()
  }
}
