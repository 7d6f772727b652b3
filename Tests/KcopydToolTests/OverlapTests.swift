import Foundation
import Testing

/// Loop devices for the command.
enum Loops {
  static let isPossible: Bool = {
    guard getuid() == 0, let folder = try? Folder(),
      (try? folder.write("a", Data(count: 4096))) != nil
    else { return false }
    return (try? withLoop(folder, "a") { _ in true }) ?? false
  }()

  static func tool(_ arguments: [String]) -> String? {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = arguments
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    guard (try? process.run()) != nil else { return nil }
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return process.terminationStatus == 0
      ? text.trimmingCharacters(in: .whitespacesAndNewlines) : nil
  }

  /// Calls `body` with a loop device on a file, and takes it away.
  static func withLoop<R>(
    _ folder: Folder, _ file: String, _ options: [String] = [], _ body: (String) throws -> R
  ) throws -> R {
    let path = try #require(
      tool(["losetup"] + options + ["--show", "-f", folder.file(file)]))
    defer { _ = tool(["losetup", "-d", path]) }
    return try body(path)
  }
}

/// Destinations that lie on the source, or it on them.
@Suite(
  .serialized,
  .enabled(
    if: Loops.isPossible, "loop devices need root, losetup and a kernel that has them"))
struct OverlapTests {
  let folder: Folder
  let data = pattern(4 << 20, seed: 1)

  init() throws {
    folder = try Folder()
    try folder.write("file", data)
    try folder.write("other", Data(count: 4 << 20))
  }

  /// Expects a refusal in one line, with nothing changed.
  private func expectRefused(_ arguments: [String], _ says: String) throws {
    let outcome = try Command.run(arguments, in: folder)
    #expect(outcome.status == 2, "\(outcome.errors)")
    #expect(outcome.errors.contains(says), "\(outcome.errors)")
    #expect(!outcome.errors.dropLast().contains("\n"))
    #expect(try folder.read("file") == data)
    #expect(folder.names == ["file", "other"])
  }

  @Test func `a loop device at an offset in the source`() throws {
    try Loops.withLoop(folder, "file", ["-o", "1048576"]) { loop in
      let says = "'\(loop)' shares sectors with the source 'file': one lies on the other"
      try expectRefused(["copy", "file", loop, "--count", "4096"], says)
      try expectRefused(
        ["copy", loop, "file"], "'file' shares sectors with the source '\(loop)'")
      try expectRefused(["copy", "other", loop, "file", "--count", "4096"], "share sectors")
      try expectRefused(["zero", "file", loop, "--count", "4096"], "share sectors")
      try expectRefused(
        ["move", loop, "file", "--state", "state"], "'file' and '\(loop)' share sectors")
      try expectRefused(
        ["snapshot", "create", "file", loop], "are the same, or share sectors")
    }
  }

  @Test func `another part of the same file`() throws {
    try Loops.withLoop(folder, "file", ["-o", "1048576"]) { loop in
      // The first 2048 sectors are before the loop device.
      let outcome = try Command.run(
        "copy", "file", loop, "--count", "2048", "--to", "1024", in: folder)
      #expect(outcome.status == 0, "\(outcome.errors)")
    }
    var expected = data
    expected.replaceSubrange(1_572_864..<2_621_440, with: data.prefix(1 << 20))
    #expect(try folder.read("file") == expected)
  }

  @Test func `a partition and its disk`() throws {
    try Loops.withLoop(folder, "file", ["-P"]) { disk in
      // By command: not every kernel reads partition tables.
      guard Loops.tool(["addpart", disk, "1", "2048", "4096"]) != nil else { return }
      defer { _ = Loops.tool(["delpart", disk, "1"]) }
      let part = disk + "p1"
      guard FileManager.default.fileExists(atPath: part) else { return }
      try expectRefused(
        ["copy", part, disk], "'\(disk)' shares sectors with the source '\(part)'")
      try expectRefused(
        ["copy", disk, part, "--count", "4096"],
        "'\(part)' shares sectors with the source '\(disk)'")
      try expectRefused(["copy", part, "file"], "'file' shares sectors with the source '\(part)'")
      try expectRefused(
        ["copy", part, disk, "--force"], "'\(disk)' shares sectors with the source '\(part)'")
    }
  }
}
