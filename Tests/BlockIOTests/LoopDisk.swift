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

  fileprivate convenience init(backing: String, block: Int, isReadOnly: Bool) throws {
    try self.init(
      ["--sector-size", "\(block)"] + (isReadOnly ? ["-r"] : []), of: backing)
  }

  /// A loop device with these options of losetup; whoever makes it must detach it.
  init(_ options: [String], of backing: String) throws {
    self.backing = backing
    path = try Self.run(["losetup"] + options + ["--show", "-f", backing])
  }

  func detach() { _ = try? Self.run(["losetup", "-d", path]) }

  /// Makes the first partition of a device with `-P`, without a partition table; nil where that
  /// isn't possible.
  ///
  /// - Returns: its name.
  func addPartition(_ sectors: Range<Sector>) -> String? {
    let numbers = [sectors.lowerBound, sectors.length].map { "\($0.rawValue)" }
    guard (try? Self.run(["addpart", path, "1"] + numbers)) != nil else { return nil }
    let name = path + "p1"
    return FileManager.default.fileExists(atPath: name) ? name : nil
  }

  func removePartition() { _ = try? Self.run(["delpart", path, "1"]) }

  private static func run(_ arguments: [String]) throws -> String {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = arguments
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
