import BlockIO
@testable import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Synchronization

// What is looked at, and that whatever fails has a reason in the plan.

extension MirrorWorld {
  // MARK: Legs

  /// Whether there may be regions that count as in sync although their recovery has failed: the
  /// kernel forgets that unless errors are handled.
  var forgetsRecovery: Bool {
    !plan.parameters.handlesErrors && !plan.parameters.conduct.remembersFailedRecovery
      && !failedLegs().isEmpty
  }

  /// What leg `index` holds.
  private func contents(_ index: Int) -> [UInt8] {
    let offset = plan.offsets[index]
    return legs[index].contents(offset..<offset + plan.count)
  }

  /// All legs hold the same, and what they should.
  func checkLegs() throws {
    try checkEqual(.zero..<plan.count, "although it is in sync")
    let first = contents(0)
    try model.withLock { try $0.settle(first) }
  }

  private func checkEqual(_ sectors: Range<Sector>, _ words: String) throws {
    let first = contents(0)
    for index in legs.indices.dropFirst() {
      let other = contents(index)
      guard let mismatch = ContentMismatch(other, expected: first, from: .zero) else { continue }
      for range in mismatch.sectors.intersection(RangeSet(sectors)).ranges {
        for sector in range.indices where !model.withLock({ $0.mayDiffer(sector) }) {
          let place = Sector(UInt64(sector))
          let found = Content.of(
            other.copy(at: Int(place.bytes), count: 512), from: place)[0]
          let wanted = Content.of(first.copy(at: Int(place.bytes), count: 512), from: place)[0]
          throw CheckFailure(
            "sector \(sector) of leg \(index) is \(found), of leg 0 \(wanted), \(words)")
        }
      }
    }
  }

  /// Regions that the log on the disk calls clean are the same on all legs.
  func checkClean(all: Bool = false) async throws {
    guard let log else { return }
    let bits: MirrorLog
    do throws(MirrorError) {
      bits = try await MirrorLog(of: log, regionCount: regionCount)
    } catch {
      // It may not have been made yet.
      if case .noLog = error { return }
      throw CheckFailure("the log can't be read: \(error)")
    }
    let dirty = bits.dirtyRuns()
    if all { try ensure(dirty.isEmpty, "regions \(dirty) aren't clean after a suspension") }
    let size = plan.parameters.regionSize.sectors
    for number in 0..<regionCount where !dirty.contains(where: { $0.contains(Region(number)) }) {
      let sectors = (size * number..<size * (number + 1)).clamped(to: .zero..<plan.count)
      try checkEqual(sectors, "although region \(number) is clean in the log")
    }
  }

  /// The legs compared by the mirror itself.
  func compare() async throws {
    guard let mirror = await ready() else { return }
    let result = await mirror.compare()
    guard !power.isOff, !forgetsRecovery else { return }
    for (leg, sectors) in result.differences {
      for sector in sectors.ranges.flatMap(\.indices) {
        let isGivenUp = model.withLock { $0.wasGivenUp(sector) }
        try ensure(isGivenUp, "leg \(leg) differs in sector \(sector), which is in sync")
      }
    }
    try ensure(result.unreadable.isEmpty || !failedLegs().isEmpty, "sectors can't be compared")
  }

  // MARK: Status

  /// The status, looked at.
  @discardableResult
  func status() async throws -> MirrorStatus {
    let status = await mirror.status
    guard !power.isOff else { return status }
    let failed = failedLegs()
    for (index, leg) in status.legs.enumerated() where leg.letter != "A" {
      try ensure(failed.contains(index), "leg \(index) is \(leg.letter), and has not failed")
    }
    try ensure(
      status.log.letter == "A" || hasFailed(.log), "the log is \(status.log.letter)")
    try ensure(status.regionsInSync <= status.regionCount, "\(status.line())")
    try ensure(status.held == 0 || holds, "writes are held")
    return status
  }

  /// Whether writes that miss a leg are held.
  var holds: Bool { plan.parameters.handlesErrors && !plan.parameters.keepsLog }

  func note(_ event: MirrorEvent) {
    guard !power.isOff else { return }
    do throws(CheckFailure) {
      switch event {
      case .inSync:
        let isLoss = hasFailed(.leg(0), [.flush])
        now.withLock { now in
          now.mayHaveLost = now.mayHaveLost || isLoss && !now.wasInSync
          now.wasInSync = true
        }
      case .legFailed(let leg, let failure):
        try ensure(failedLegs().contains(leg), "leg \(leg) has not failed: \(failure)")
        try ensure(plan.parameters.handlesErrors, "an event without error handling")
      case .repaired(let leg, _):
        try ensure(failedLegs().contains(leg), "nothing was to be repaired on leg \(leg)")
        try ensure(plan.parameters.conduct.repairsReads, "leg \(leg) was repaired")
      case .logFailed(let reason): try ensure(hasFailed(.log), "the log hasn't failed: \(reason)")
      case .sidecarFailed(let reason): throw CheckFailure("the sidecar doesn't fail: \(reason)")
      }
    } catch {
      report(error)
    }
  }

  // MARK: Reasons

  /// Whether a disk has failed a request of the mirror, other than for lack of power.
  private func hasFailed(_ disk: MirrorDisk, _ kinds: [IOFailure.Operation]) -> Bool {
    let (seen, requests): (Int, [LoggedRequest]) =
      switch disk {
      case .leg(let index): (now.withLock { $0.seen[index] }, legs[index].log)
      case .log: (now.withLock { $0.seen.dropFirst(legs.count).first ?? 0 }, log?.log ?? [])
      case .sidecar: (0, [])
      }
    return requests.dropFirst(seen).contains {
      kinds.contains($0.operation)
        && $0.failure.map { $0.detail != SimulatedDisk.powerLost } ?? false
    }
  }

  func hasFailed(_ disk: MirrorDisk) -> Bool { hasFailed(disk, [.read, .write, .flush, .discard]) }

  func hasFailed(anywhere kinds: IOFailure.Operation...) -> Bool {
    hasFailed(.log, kinds) || legs.indices.contains { hasFailed(.leg($0), kinds) }
  }

  /// The legs that have failed a request since the mirror was made.
  func failedLegs() -> [Int] { legs.indices.filter { hasFailed(.leg($0)) } }

  /// Whether everything that was acknowledged must be there to be read and written.
  private var isSafe: Bool {
    let failed = failedLegs()
    // Out of sync in the beginning, leg 0 is all there is.
    if !failed.contains(0) { return true }
    return failed.count == 1 && now.withLock { $0.wasInSync }
      && plan.parameters.conduct.tracksStaleLegs
  }

  /// A request that failed must have a reason.
  func explain(_ failure: IOFailure, _ operation: IOFailure.Operation) throws {
    if power.isOff { return }
    let failed = failedLegs()
    let isExplained =
      switch operation {
      case .read: !isSafe
      case .discard: legs.indices.contains { hasFailed(.leg($0), [.discard]) }
      default:
        if holds {
          !failed.isEmpty || hasFailed(.log)
        } else if plan.parameters.keepsLog, hasFailed(.log) {
          true
        } else {
          // A loss is told by the next flush, however late that comes.
          !isSafe || operation == .flush && now.withLock { $0.mayHaveLost }
        }
      }
    try ensure(isExplained, "\(failure); legs that have failed: \(failed)")
  }
}
