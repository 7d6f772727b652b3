import BlockIO

// Flushes of the legs, for the log and for those who ask for one. A leg tells of lost writes once,
// and whom of several that flush it at the same time is chance.

/// Flushes of all legs under way, and what they have found.
final class LegFlushes {
  fileprivate var underWay = Set<UInt64>()
  fileprivate var begun: UInt64 = 0
  fileprivate let over = Gate()
  /// How often something acknowledged was on no leg that could be flushed, why at last, and how
  /// much of that users were told.
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
      if parameters.conduct.tracksStaleLegs { loseUnflushed(failed) } else { log.stopCleaning() }
    }
    guard failure != nil else { return true }
    // Nobody else is told of it: a flush that is asked for next may well succeed.
    await saveTrust()
    return false
  }

  /// Flushes all legs for a user.
  ///
  /// - Returns: why not, or why something that was acknowledged before is on no leg: a loss.
  func flushLegsForUser() async -> (failure: IOFailure, isLoss: Bool)? {
    let told = legFlushes.toldLosses
    let failure = await flushLegs(.write) { failed in
      if parameters.conduct.tracksStaleLegs {
        loseUnflushed(failed)
      } else if !log.hasFailed {
        distrustsIdle = true
      }
    }
    let isLoss = legFlushes.losses > told
    if isLoss { legFlushes.toldLosses = legFlushes.losses }
    return (failure ?? (isLoss ? legFlushes.lastLoss : nil)).map { ($0, isLoss) }
  }

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
    if !failed.isEmpty {
      failedFlushes += 1
      if isOnlyOn(failed) {
        flushes.losses += 1
        flushes.lastLoss = first
      }
      note(failed)
    }
    flushes.underWay.remove(mine)
    flushes.over.open()
    if let first { return first }
    // Those that were under way meanwhile may have been told of what this one had to make durable.
    let others = flushes.underWay
    await flushes.over.wait { !flushes.underWay.isDisjoint(with: others) }
    return nil
  }

  /// Whether something that was acknowledged is on none but these legs.
  private func isOnlyOn(_ failed: [Int]) -> Bool {
    if failed.count == legs.count { return true }
    let failed = Set(failed)
    // What isn't in sync and has no entry is on the leg that is trusted at the beginning.
    let untold = log.regionCount - log.syncCount > UInt64(trust.count)
    return untold && failed.contains(firstTrusted)
      || trust.values.contains { $0.isSubset(of: failed) }
  }

  /// Legs couldn't be flushed: what was written to them since the last flush that went well may be
  /// lost. Other regions aren't concerned, nor is what is written from now on.
  private func loseUnflushed(_ failed: [Int]) {
    isInSync = false
    // What is out of sync already isn't known to be on these any more, if another leg has it.
    for region in Array(trust.keys) { distrust(failed, in: region..<region.advanced(by: 1)) }
    for region in log.uncleanInSync {
      distrust(failed, in: region..<region.advanced(by: 1))
      lose(region)
    }
    planRetry()
  }
}
