import BlockIO
import BlockIOTesting
import DeviceMapperTesting

/// Which of the disks of a mirror.
enum MirrorDisk: Hashable, Sendable {
  case leg(Int)
  case log
  case sidecar
}

/// Faults planted into a run, to see that the checks find them.
struct MirrorSabotage: Sendable {
  /// What the disks do besides what is planned.
  var faults: @Sendable (inout FaultPlan, MirrorDisk) -> Void = { _, _ in }
  /// What the mirror gets instead of a disk.
  var device: @Sendable (SimulatedDisk, MirrorDisk) -> any BlockDevice = { disk, _ in disk }
  /// Done to the legs after a write that went well.
  var afterWrite: @Sendable ([SimulatedDisk], Range<Sector>) -> Void = { _, _ in }
  /// Done to legs and log between two phases.
  var afterPhase: @Sendable ([SimulatedDisk], SimulatedDisk?) -> Void = { _, _ in }

  static let none = MirrorSabotage()
}
