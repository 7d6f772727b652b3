import BlockIO

/// A short life of an origin and its snapshots, and the images that are left of it.
struct Scenario: Sendable {
  let name: String
  /// The size of the origin.
  let origin: Sector
  /// Whether the kernel is to merge the snapshot afterwards.
  var isMergedByKernel = true
  let play: @Sendable (TestBed) async throws -> Void

  static let all = snapshotScenarios + mergeScenarios

  /// Plays it in an empty folder and writes what is to be expected.
  func make(in folder: Folder) async throws {
    let bed = try TestBed(in: folder, sectorCount: origin)
    try await play(bed)
    try await bed.close()
    try folder.write(bed.model.origin, to: "expected-origin.img")
    let range = "0 \(origin.rawValue)"
    for (index, snapshot) in bed.model.snapshots.enumerated() {
      let suffix = index == 0 ? "" : "\(index + 1)"
      let cow = try folder.sectorCount(of: TestBed.cowName(index))
      if !snapshot.isLost {
        try folder.write(snapshot.content, to: "expected-snapshot\(suffix).img")
      }
      try folder.write(
        line: "\(range) snapshot \(snapshot.status(cow: cow))", to: "expected-status\(suffix)")
      try folder.write(line: "\(range) snapshot \(snapshot.table)", to: "expected-table\(suffix)")
      if isMergedByKernel {
        try folder.write(
          line: "\(range) snapshot-merge \(snapshot.mergedStatus(cow: cow))",
          to: "expected-merged-status\(suffix)")
      }
    }
  }
}
