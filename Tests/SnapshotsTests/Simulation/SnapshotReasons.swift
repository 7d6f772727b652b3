import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots
import Synchronization

// Whatever fails must have a reason in the plan.

extension SnapshotWorld {
  /// Whether a disk has failed a request of that kind, other than for lack of power.
  private func hasFailed(_ disk: Int, _ operations: IOFailure.Operation...) -> Bool {
    disks[disk].log.contains {
      operations.contains($0.operation)
        && $0.failure.map { $0.detail != SimulatedDisk.powerLost } ?? false
    }
  }

  /// Whether a COW device can be too small for all chunks, or was kept from becoming larger.
  private func canRunFull(_ index: Int) -> Bool {
    plan.snapshots[index].canRunFull || hasFailed(index + 1, .grow)
  }

  /// Takes note of what a snapshot says has happened to it.
  func note(_ event: SnapshotEvent, of index: Int) {
    if case .invalidated(let reason) = event, reason.contains("could not be marked"),
      !reason.contains(SimulatedDisk.powerLost)
    {
      slots.withLock { $0[index].isUnmarked = true }
    }
    guard !power.isOff else { return }
    do throws(CheckFailure) {
      switch event {
      case .invalidated(let reason):
        try explainLoss(index, reason)
        slots.withLock { $0[index].isLostForGood = !$0[index].isUnmarked }
      case .overflowed:
        let snapshot = plan.snapshots[index]
        try ensure(
          canRunFull(index) && snapshot.parameters.store == .persistentWithOverflow,
          "snapshot \(index) has overflowed")
      case .merged: slots.withLock { $0[index].isMerged = true }
      case .mergeFailed(let reason):
        try ensure(
          hasFailed(0, .write, .writeZeroes, .flush, .read)
            || hasFailed(index + 1, .read, .write, .writeZeroes, .flush),
          "the merge has failed: \(reason)")
      case .holding:
        try ensure(canRunFull(index), "snapshot \(index) holds writes")
      case .grown: break
      }
    } catch {
      report(error)
    }
  }

  /// A snapshot is invalid only if it can run full, a chunk couldn't be read, or something couldn't
  /// be written to its COW device.
  func explainLoss(_ index: Int, _ reason: String) throws(CheckFailure) {
    let isFull = canRunFull(index)
    let hasFault = hasFailed(0, .read) || hasFailed(index + 1, .write, .writeZeroes, .flush)
    let isExplained =
      if reason.contains("no room") { isFull } else if reason.contains("marked invalid before") {
        isFull || hasFault
      } else { hasFault }
    try ensure(isExplained, "snapshot \(index) is invalid: \(reason)")
  }

  /// A request that failed must have a reason: a fault of the disk that it went to, the loss of the
  /// snapshot it was for, a merge that failed.
  func explain(
    _ failure: IOFailure, _ operation: IOFailure.Operation, of number: Int
  ) async throws {
    if power.isOff { return }
    if number > 0 {
      guard case .live(let device) = slots.withLock({ $0[number - 1].state }) else { return }
      let condition = await device.status.condition
      // A flush goes to the COW device all the same.
      if case .invalid(let reason) = condition, operation != .flush {
        return try explainLoss(number - 1, reason)
      }
      if condition == .overflowed, operation == .write || operation == .discard { return }
    }
    let below = number > 0 ? number : mergingIndex.map { $0 + 1 } ?? 0
    let isExplained =
      switch operation {
      case .read: hasFailed(0, .read) || hasFailed(below, .read)
      // A merge that fails takes the writes with it that wait for it.
      case .write where number == 0 && below > 0:
        hasFailed(0, .write, .flush) || hasFailed(below, .read, .write, .writeZeroes, .flush)
      case .write: hasFailed(below, .write, .flush)
      // Passed down.
      case .discard where hasFailed(0, .discard): true
      default:
        hasFailed(below, .write, .writeZeroes, .discard, .flush)
          || number == 0 && hasFailed(0, .flush)
      }
    try ensure(isExplained, "device \(number): \(failure)")
  }
}
