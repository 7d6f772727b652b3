import BlockIO

// Flushes of the legs, for the log and for those who ask for one. A leg tells of lost writes once,
// and whom of several that flush it at the same time is chance.

/// Flushes of all legs under way, and what they have found.
final class LegFlushes {
  fileprivate var underWay = Set<UInt64>()
  fileprivate var begun: UInt64 = 0
  fileprivate let over = Gate()
  /// How often no leg at all could be flushed, why at last, and how much of that users were told.
  fileprivate var losses: UInt64 = 0
  fileprivate var lastLoss: IOFailure?
  fileprivate var toldLosses: UInt64 = 0
}

extension Mirror {
  /// Flushes all legs for the log.
  ///
  /// - Returns: whether all could be.
  func flushLegsForLog() async -> Bool {
    let failure = await flushLegs(.flush) { failed in
      // Also what went idle meanwhile, or only just before.
      noteUnflushed(failed, regions: awaitingClean)
    }
    guard failure != nil else { return true }
    // Nobody else is told of it: a flush that is asked for next may well succeed.
    await saveTrust()
    return false
  }

  /// Flushes all legs for a user.
  ///
  /// - Returns: why not, or why what was acknowledged before is on no leg.
  func flushLegsForUser() async -> IOFailure? {
    let told = legFlushes.toldLosses
    let failure = await flushLegs(.write) { failed in
      guard !log.hasFailed else { return }
      isInSync = false
      // What waits to be called clean may have been in the cache that failed.
      noteUnflushed(failed, regions: awaitingClean)
    }
    guard failure != nil || legFlushes.losses > told else { return nil }
    legFlushes.toldLosses = legFlushes.losses
    return failure ?? legFlushes.lastLoss
  }

  /// Regions without a write under way that aren't clean yet.
  private var awaitingClean: Set<Region> { log.awaitingFlush.union(idleSince.keys) }

  /// Flushes all legs at once.
  ///
  /// - Parameters:
  ///   - error: what a leg that fails is marked with.
  ///   - note: what is done, without a suspension, about legs that couldn't be flushed.
  private func flushLegs(_ error: LegError, _ note: ([Int]) -> Void) async -> IOFailure? {
    let flushes = legFlushes
    flushes.begun += 1
    let mine = flushes.begun
    flushes.underWay.insert(mine)
    let failures = await onLegs(.flush, .zero..<Sector.zero) { leg, _ throws(IOFailure) in
      try await leg.flush()
    }
    let failed = failures.indices.filter { failures[$0] != nil }
    for index in failed {
      if let failure = failures[index] { mark(index, error, failure) }
    }
    let first = failures.compactMap(\.self).first
    if !failed.isEmpty { note(failed) }
    if failed.count == legs.count {
      flushes.losses += 1
      flushes.lastLoss = first
    }
    flushes.underWay.remove(mine)
    flushes.over.open()
    if let first { return first }
    // Those that were under way meanwhile may have been told of what this one had to make durable.
    let others = flushes.underWay
    await flushes.over.wait { !flushes.underWay.isDisjoint(with: others) }
    return nil
  }

  /// Legs couldn't be flushed: what was written to them in these regions, and in those with writes
  /// under way, may be lost.
  private func noteUnflushed(_ failed: [Int], regions: Set<Region>) {
    failedFlushes += 1
    unflushed.formUnion(failed)
    guard parameters.conduct.tracksStaleLegs else { return }
    for region in regions.sorted() {
      distrust(failed, in: region..<region.advanced(by: 1))
      lose(region)
    }
  }
}
