public import BlockIO
public import Mirrors
public import Snapshots

/// How a target is doing, for programs: what its status line says to people, and more.
public enum TargetFigures: Sendable {
  /// A snapshot, or one that is being merged; its COW device, as the table has it.
  case snapshot(SnapshotStatus, cow: String)
  /// A mirror; its legs as the table has them, and what has been done with each.
  case mirror(MirrorStatus, legs: [(name: String, statistics: LegStatistics)])
}

extension DeviceMapper {
  /// The figures of the targets that have some, with the sectors that these have of the device.
  public func figures(
    _ name: String
  ) async throws(DeviceMapperError) -> [(sectors: Range<Sector>, figures: TargetFigures)] {
    var found: [(sectors: Range<Sector>, figures: TargetFigures)] = []
    for target in try find(name).live?.targets ?? [] {
      if let figures = await target.figures { found.append((target.sectors, figures)) }
    }
    return found
  }
}
