import BlockIO
import Foundation
import Testing

/// A loop device on a file: a real block special, with blocks of a size to choose.
final class LoopDisk: Sendable {
  /// Its name: `/dev/loop…`.
  let path: String
  /// The file behind it.
  let backing: String

  /// Whether this process may make loop devices.
  static let isPossible: Bool = {
    guard getuid() == 0 else { return false }
    let attached = try? withTemporaryFolder { folder in
      try withLoopDisk(in: folder, byteCount: 1 << 20, block: 4096) { _ in true }
    }
    return attached ?? false
  }()

  fileprivate init(backing: String, block: Int, isReadOnly: Bool) throws {
    self.backing = backing
    let options = ["--sector-size", "\(block)", "--show", "-f"] + (isReadOnly ? ["-r"] : [])
    path = try Self.losetup(options + [backing])
  }

  fileprivate func detach() { _ = try? Self.losetup(["-d", path]) }

  private static func losetup(_ arguments: [String]) throws -> String {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["losetup"] + arguments
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw CocoaError(.fileReadUnknown) }
    return text.trimmingCharacters(in: .whitespacesAndNewlines)
  }
}

/// Calls `body` with a loop device on a new file of zeros, and takes it away.
func withLoopDisk<R>(
  in folder: String, byteCount: Int64, block: Int, isReadOnly: Bool = false,
  _ body: (LoopDisk) throws -> R
) throws -> R {
  let backing = "\(folder)/backing"
  try put([], backing)
  try resize(backing, to: byteCount)
  let disk = try LoopDisk(backing: backing, block: block, isReadOnly: isReadOnly)
  defer { disk.detach() }
  return try body(disk)
}

/// As above, for asynchronous bodies.
func withLoopDisk<R>(
  in folder: String, byteCount: Int64, block: Int, isReadOnly: Bool = false,
  _ body: (LoopDisk) async throws -> R
) async throws -> R {
  let backing = "\(folder)/backing"
  try put([], backing)
  try resize(backing, to: byteCount)
  let disk = try LoopDisk(backing: backing, block: block, isReadOnly: isReadOnly)
  defer { disk.detach() }
  return try await body(disk)
}
