import BlockIO
import BlockIOTesting
import DeviceMapperTesting

/// Faults planted into a run, to see that the checks find them. The flags say whether it is the
/// origin's disk.
struct SnapshotSabotage: Sendable {
  /// What the disks do besides what is planned.
  var faults: @Sendable (FaultPlan, Bool) -> FaultPlan = { plan, _ in plan }
  /// What origin and snapshots get instead of a disk.
  var device: @Sendable (SimulatedDisk, Bool) -> any BlockDevice = { disk, _ in disk }
  /// Done to the disks after a write to the device of that number.
  var afterWrite: @Sendable ([SimulatedDisk], Int, Range<Sector>) -> Void = { _, _, _ in }
  /// Done to the disks between two phases.
  var afterPhase: @Sendable ([SimulatedDisk]) -> Void = { _ in }

  static let none = SnapshotSabotage()
}
