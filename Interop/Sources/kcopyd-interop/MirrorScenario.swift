import BlockIO

/// A short life of a mirror, and the images that are left of it.
struct MirrorScenario: Sendable {
  let name: String
  /// How long the legs are, and what of them the kernel's mirror has; nil: all of it.
  let sectors: Sector
  var length: Sector?
  let region: Sector
  /// Where on each leg the mirror begins; as many legs as there are offsets.
  var offsets: [Sector] = [0, 0, 0]
  /// What the kernel's table says about regions.
  var policy = Policy.asLogged
  let play: @Sendable (MirrorBed) async throws -> Void

  static let all = suspendedMirrors + brokenMirrors + newLogs

  /// Plays it in an empty folder and writes what the kernel must make of what is left.
  func make(in folder: Folder) async throws {
    let bed = try MirrorBed(in: folder, sectorCount: sectors, region: region, offsets: offsets)
    try await play(bed)
    try await bed.close()
    let length = length ?? sectors - (offsets.max() ?? .zero)
    var model = bed.model
    model.resume(length: length, policy: policy)
    let table = [length, region].map { "\($0.rawValue)" } + [policy.rawValue]
    try folder.write(
      line: (table + offsets.map { "\($0.rawValue)" }).joined(separator: " "), to: "table")
    try folder.write(line: model.inSync, to: "expected-in-sync")
    try folder.write(line: hex(model.log), to: "expected-log")
    try folder.write(line: "\(model.recover().rawValue)", to: "expected-copied")
    try folder.write(line: hex(model.log), to: "expected-log-then")
    for (index, leg) in model.legs.enumerated() {
      try folder.write(leg, to: "expected-leg\(index).img")
    }
  }

  private func hex(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }
}
