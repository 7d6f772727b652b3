import BlockIO
import SystemPackage

// Requests to a mirror.

extension Mirror {
  /// The most sectors of one request that are dealt with at once.
  static let pieceLimit = Sector(holding: 4 << 20)

  // MARK: Reading

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try beginRequest(.read, sectors)
    defer { endRequest() }
    try await read(sectors, into: buffer, tried: [], last: nil)
  }

  /// The part of `sectors` from their start on whose regions are all in sync, or all not and then
  /// to be found on the same leg.
  private func alike(_ sectors: Range<Sector>) -> (Range<Sector>, isInSync: Bool) {
    let touched = parameters.regionSize.regions(touching: sectors)
    let first = touched.lowerBound
    let isInSync = log.isInSync(first)
    var end = first.advanced(by: 1)
    while end < touched.upperBound, log.isInSync(end) == isInSync,
      isInSync || trustedLeg(of: end) == trustedLeg(of: first)
    {
      end = end.advanced(by: 1)
    }
    let region = parameters.regionSize.sectors(of: touched.lowerBound..<end)
    return (sectors.clamped(to: region), isInSync)
  }

  /// Reads from any leg that will do, but for those that have been tried: the last one failed with
  /// `last`.
  func read(
    _ sectors: Range<Sector>, into buffer: IOBuffer, tried: Set<Int>, last: IOFailure?
  ) async throws(IOFailure) {
    var rest = sectors
    while !rest.isEmpty {
      let (piece, isInSync) = alike(rest)
      let part = buffer.slice(piece.lowerBound - sectors.lowerBound, piece.length)
      // A part by itself hasn't been tried yet.
      let isWhole = piece == sectors
      try await readAlike(
        piece, isInSync: isInSync, into: part, tried: isWhole ? tried : [],
        last: isWhole ? last : nil)
      rest = piece.upperBound..<rest.upperBound
    }
  }

  private func readAlike(
    _ sectors: Range<Sector>, isInSync: Bool, into buffer: IOBuffer, tried: Set<Int>,
    last: IOFailure?
  ) async throws(IOFailure) {
    let first = parameters.regionSize.region(of: sectors.lowerBound)
    guard
      let index = legToRead(isInSync: isInSync, trusted: trustedLeg(of: first), except: tried)
    else {
      if parameters.conduct.repairsReads, let last {
        for index in tried { mark(index, .read, last) }
      }
      throw moved(last, .read, sectors)
        ?? IOFailure(
          .read, name, sectors, errno: .ioError, detail: "no leg is left that could be read")
    }
    let leg = legs[index]
    leg.reads += 1
    let request = begin(.read, index, sectors)
    do throws(IOFailure) {
      defer { leg.reads -= 1 }
      try await leg.device.read(leg.sectors(of: sectors), into: buffer)
    } catch {
      end(request, isDone: false)
      noteFailedRead(index, error, isInSync: isInSync)
      // Which regions are in sync, and which leg has what, may be something else by now.
      return try await read(
        sectors, into: buffer, tried: tried.union([index]), last: error)
    }
    end(request, isDone: true)
    if let last, let first = tried.first, tried.count == 1, parameters.conduct.repairsReads {
      mend(first, sectors, last)
    }
  }

  /// A leg couldn't be read. Where it can be mended, that is tried before it is marked.
  func noteFailedRead(_ index: Int, _ failure: IOFailure, isInSync: Bool) {
    if !(isInSync && parameters.conduct.repairsReads) { mark(index, .read, failure) }
  }

  /// The leg to read from: in sync any good one, else only the one that is trusted.
  func legToRead(isInSync: Bool, trusted: Int, except tried: Set<Int>) -> Int? {
    guard isInSync else {
      // It has what nobody else has, whatever went wrong with it elsewhere.
      let isUsable = legs[trusted].isGood || parameters.conduct.tracksStaleLegs
      return isUsable && !tried.contains(trusted) ? trusted : nil
    }
    var best: Int?
    // The default leg, then downwards, in a circle.
    for step in legs.indices {
      let index = (defaultLeg + legs.count - step) % legs.count
      guard legs[index].isGood, !tried.contains(index) else { continue }
      guard parameters.conduct.balancesReads else { return index }
      if best.map({ legs[index].reads < legs[$0].reads }) ?? true { best = index }
    }
    return best
  }

  /// Writes what a leg couldn't read to it again, from the others, when nothing else is under way
  /// there; marks it if that fails, too.
  private func mend(_ index: Int, _ sectors: Range<Sector>, _ failure: IOFailure) {
    inBackground { await self.mendNow(index, sectors, failure) }
  }

  private func mendNow(_ index: Int, _ sectors: Range<Sector>, _ failure: IOFailure) async {
    guard mayRecover else { return mark(index, .read, failure) }
    mends.add(1)
    defer { mends.remove(1) }
    let touched = parameters.regionSize.regions(touching: sectors)
    await hold(touched)
    defer {
      release(touched)
      for region in touched { wentIdle(region) }
    }
    let isInSync = touched.allSatisfy { log.isInSync($0) }
    let source = legs.indices.first { $0 != index && legs[$0].isGood }
    guard isInSync, let source else { return mark(index, .read, failure) }
    for region in touched { log.mark(region) }
    _ = await flushLog()
    let failures = await copy(sectors, from: source, to: [index], options: [])
    if failures.read == nil, failures.writes.isEmpty {
      // Not what a flush that failed meanwhile may have lost.
      for region in touched where log.isInSync(region) && !distrustsIdle { log.clear(region) }
      _ = await flushLog()
      onEvent(.repaired(index, sectors))
    } else {
      mark(index, .read, failure)
    }
  }

  // MARK: Writing

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try beginRequest(.write, sectors)
    defer { endRequest() }
    var rest = sectors
    while !rest.isEmpty {
      let limit = rest.lowerBound..<min(rest.upperBound, rest.lowerBound + Self.pieceLimit)
      while let busy = recovering(limit) { await busy.changed.wait { busy.isRecovering } }
      // From here on to the marks nothing else can happen.
      let (piece, isInSync) = alike(limit)
      let touched = parameters.regionSize.regions(touching: piece)
      begin(touched)
      defer { end(touched) }
      let part = buffer.slice(piece.lowerBound - sectors.lowerBound, piece.length)
      try await writeMarked(piece, touched, isInSync: isInSync, from: part, options: options)
      rest = piece.upperBound..<rest.upperBound
    }
  }

  /// Gives sectors up, on all legs that can.
  func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try beginRequest(.discard, sectors)
    defer { endRequest() }
    guard legs.allSatisfy(\.device.limits.supportsDiscard) else {
      throw IOFailure(.discard, name, sectors, errno: .notSupported)
    }
    var rest = sectors
    while !rest.isEmpty {
      let piece = rest.lowerBound..<min(rest.upperBound, rest.lowerBound + Self.pieceLimit)
      try await discardPiece(piece)
      rest = piece.upperBound..<rest.upperBound
    }
  }

  private func discardPiece(_ sectors: Range<Sector>) async throws(IOFailure) {
    let touched =
      parameters.conduct.marksDiscards
      ? parameters.regionSize.regions(touching: sectors) : 0..<0
    if !touched.isEmpty {
      while let busy = recovering(sectors) { await busy.changed.wait { busy.isRecovering } }
    }
    begin(touched)
    defer { end(touched) }
    if !touched.isEmpty { await flushLog() }
    let failures = await onLegs(.discard, sectors) { device, sectors throws(IOFailure) in
      try await device.discard(sectors)
    }
    let failed = failures.indices.filter { failures[$0] != nil }
    guard !failed.isEmpty else { return }
    if failed.count < legs.count {
      // Some have given them up and others haven't: not the same any more, and all as good.
      for region in touched where log.isInSync(region) {
        setHolders(Set(legs.indices), of: region)
        lose(region)
      }
      await saveTrust()
    }
    throw IOFailure(.discard, name, sectors, errno: .notSupported)
  }

  func flush() async throws(IOFailure) {
    try beginRequest(.flush, nil)
    defer { endRequest() }
    if log.hasFailed, parameters.handlesErrors { return try await settleFailure(0..<0, nil) }
    let failed = await flushLegsForUser()
    await saveTrust()
    guard let failed else { return }
    // What no leg has, no other table will have.
    if failed.isLoss, parameters.conduct.tracksStaleLegs { throw failed.failure }
    try await settleFailure(0..<0, failed.failure)
  }

  /// One write whose regions have been marked dirty.
  private func writeMarked(
    _ sectors: Range<Sector>, _ touched: Range<Region>, isInSync: Bool, from buffer: IOBuffer,
    options: WriteOptions
  ) async throws(IOFailure) {
    let isLogGood = await flushLog()
    guard isInSync else {
      if hasFailedLeg, parameters.handlesErrors, !parameters.keepsLog {
        return try await settleFailure(touched, nil)
      }
      var rest = sectors
      while !rest.isEmpty {
        // While the log was written it may have become another leg, and not the same for all.
        let (piece, _) = alike(rest)
        let part = buffer.slice(piece.lowerBound - sectors.lowerBound, piece.length)
        try await writeToTrusted(piece, from: part, options: options)
        rest = piece.upperBound..<rest.upperBound
      }
      return
    }
    if !isLogGood, parameters.handlesErrors { return try await settleFailure(touched, nil) }
    let failures = await onLegs(.write, sectors) { device, sectors throws(IOFailure) in
      try await device.write(sectors, from: buffer, options: options)
    }
    try await settle(failures, of: sectors, touched)
  }

  /// Writes what isn't in sync to the leg that has everything else there.
  private func writeToTrusted(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    let touched = parameters.regionSize.regions(touching: sectors)
    let index = trustedLeg(of: touched.lowerBound)
    let leg = legs[index]
    // From its start on no other leg has what this one has.
    let before = touched.map { holders(of: $0) }
    for region in touched { setHolders([index], of: region) }
    await saveTrust()
    let request = begin(.write, index, sectors)
    do throws(IOFailure) {
      try await leg.device.write(leg.sectors(of: sectors), from: buffer, options: options)
      end(request, isDone: true)
      for region in touched { state(of: region).isOnOneLeg = true }
    } catch {
      end(request, isDone: false)
      mark(index, .write, error)
      // It was never acknowledged: what the others have is still as good as before – unless
      // another write meanwhile went to this leg alone.
      for (region, others) in zip(touched, before)
      where state(of: region).writes == 1 && !state(of: region).isOnOneLeg {
        restoreHolders(others.subtracting([index]), of: region, after: index)
      }
      await saveTrust()
      throw moved(error, .write, sectors) ?? error
    }
  }

  /// What becomes of a write to all legs; `failures` has those of each leg.
  func settle(
    _ failures: [IOFailure?], of sectors: Range<Sector>, _ touched: Range<Region>
  ) async throws(IOFailure) {
    guard let first = failures.compactMap(\.self).first else { return }
    for (index, failure) in failures.enumerated() {
      if let failure { mark(index, .write, failure) }
    }
    distrust(failures.indices.filter { failures[$0] != nil }, in: touched)
    // Before it is acknowledged: else a restart could copy what was there before over it.
    await saveTrust()
    try await settleFailure(touched, moved(first, .write, sectors))
  }

  /// Does something to the same sectors of all legs at once.
  func onLegs(
    _ kind: LegStatistics.Kind, _ sectors: Range<Sector>,
    _ body: @escaping @Sendable (any BlockDevice, Range<Sector>) async throws(IOFailure) -> Void
  ) async -> [IOFailure?] {
    await withTaskGroup(of: (Int, IOFailure?).self) { group in
      for index in legs.indices {
        group.addTask(executorPreference: loop) {
          (index, await self.counted(kind, index, sectors, body))
        }
      }
      var failures: [IOFailure?] = legs.map { _ in nil }
      for await (index, failure) in group { failures[index] = failure }
      return failures
    }
  }

  // MARK: Failed writes

  /// What becomes of a write that isn't on all legs: well, if there is another leg and nobody wants
  /// to know; held, if the mirror is to get another table; else it fails.
  private func settleFailure(
    _ touched: Range<Region>, _ failure: IOFailure?
  ) async throws(IOFailure) {
    if failure != nil, !log.hasFailed || parameters.conduct.tracksStaleLegs {
      isInSync = false
      for region in touched { lose(region) }
    }
    let error =
      failure ?? IOFailure(.write, name, errno: .ioError, detail: "the mirror can't be relied on")
    if legs.allSatisfy({ !$0.isGood }) || (parameters.keepsLog && log.hasFailed) { throw error }
    guard parameters.handlesErrors, !parameters.keepsLog else { return }
    held += 1
    defer { held -= 1 }
    await heldReleased.wait { heldEnd == nil }
    if heldEnd == .requeue { throw .requeued(name) }
    throw error
  }

  /// The legs differ there.
  func lose(_ region: Region) {
    isInSync = false
    log.setSync(region, false)
    log.mark(region)
    planRetry()
  }

  /// A leg's failure with the mirror's own sectors.
  func moved(
    _ failure: IOFailure?, _ operation: IOFailure.Operation, _ sectors: Range<Sector>
  ) -> IOFailure? {
    failure.map {
      IOFailure(operation, name, sectors, errno: $0.errno, detail: $0.description)
    }
  }
}

extension IOFailure {
  /// A request that wasn't done because its device is about to be replaced: it is to be given to
  /// the device that takes its place.
  public static func requeued(_ name: String) -> IOFailure {
    IOFailure(.write, name, errno: .resourceTemporarilyUnavailable, detail: requeuedDetail)
  }

  /// Whether that is so.
  public var isRequeued: Bool { detail == Self.requeuedDetail }

  /// Whether a mirror refused the request because it isn't resumed: nothing has been done.
  public var isMirrorNotResumed: Bool { detail == Self.notResumedDetail }

  /// A request that waited for a suspended device for as long as whoever makes it may.
  public static func stillSuspended(
    _ operation: Operation, _ name: String, _ sectors: Range<Sector>?
  ) -> IOFailure {
    IOFailure(operation, name, sectors, errno: .timedOut, detail: stillSuspendedDetail)
  }

  /// Whether that is so, on the device itself or one that it stands on: nothing has been done.
  public var isStillSuspended: Bool { detail?.contains(Self.stillSuspendedDetail) == true }

  private static let stillSuspendedDetail =
    "it was suspended meanwhile, and isn't resumed; resume it and try again"
  static let notResumedDetail = "the mirror is not resumed"
  private static let requeuedDetail = "to be done by the device that takes this one's place"
}
