import BlockIO
@testable import BlockIOTesting

@testable import Kcopyd

/// Faults planted into a run, to see that the checks find them.
struct Sabotage: Sendable {
  /// What the disks do besides what is planned.
  var faults: @Sendable (FaultPlan) -> FaultPlan = { $0 }
  /// What the clients get instead of a disk.
  var device: @Sendable (SimulatedDisk) -> any BlockDevice = { $0 }
  /// What the checks get instead of a result.
  var result: @Sendable (CopyResult) -> CopyResult = { $0 }
  /// How often a job is notified.
  var notifications = 1

  static let none = Sabotage()
}
