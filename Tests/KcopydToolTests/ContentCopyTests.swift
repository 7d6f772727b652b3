import Foundation
import Testing

/// Holes, hashes, differences, verifying and clones, as the command does them.
@Suite struct ContentCopyTests {
  /// 8 MiB of which the first, as much in the middle and the end are data.
  static func sparse(
    _ folder: Folder, _ name: String = "src", piece length: Int = 100_000
  ) throws -> Data {
    var data = Data(count: (8 << 20) + 700)
    let piece = pattern(length)
    for offset in [0, 5_000_000, data.count - length] {
      data.replaceSubrange(offset..<offset + piece.count, with: piece)
    }
    _ = FileManager.default.createFile(atPath: folder.file(name), contents: nil)
    let file = try FileHandle(forWritingTo: URL(fileURLWithPath: folder.file(name)))
    try file.truncate(atOffset: UInt64(data.count))
    for offset in [0, 5_000_000, data.count - length] {
      try file.seek(toOffset: UInt64(offset))
      try file.write(contentsOf: piece)
    }
    try file.close()
    return data
  }

  static func allocated(_ path: String) -> Int {
    var status = stat()
    return stat(path, &status) == 0 ? Int(status.st_blocks) * 512 : -1
  }

  static func tool(_ name: String, _ arguments: [String]) throws -> String? {
    let process = Process()
    let output = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [name] + arguments
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return process.terminationStatus == 0 ? String(decoding: data, as: UTF8.self) : nil
  }

  @Test func holesStayHolesAndDirtyFilesAreZeroed() throws {
    let folder = try Folder()
    let data = try Self.sparse(folder)
    try folder.write("old", Data(repeating: 0xaa, count: data.count))
    let outcome = try Command.run("copy", "src", "new", "old", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(try folder.read("new") == data)
    #expect(try folder.read("old") == data)
    #expect(Self.allocated(folder.file("new")) <= Self.allocated(folder.file("src")))
    let never = try Command.run("copy", "--sparse", "never", "src", "full", in: folder)
    #expect(never.status == 0, "\(never.errors)")
    #expect(try folder.read("full") == data)
    #expect(Self.allocated(folder.file("full")) >= data.count)
  }

  @Test func zerosBecomeHolesLikeThoseOfOthers() throws {
    let folder = try Folder()
    let data = try Self.sparse(folder, "sparse")
    try folder.write("src", data)
    try folder.write("old", Data(repeating: 0xaa, count: data.count))
    let outcome = try Command.run("copy", "--sparse", "always", "src", "new", "old", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(try folder.read("new") == data)
    #expect(try folder.read("old") == data)
    let own = Self.allocated(folder.file("new"))
    if try Self.tool("cp", ["--sparse=always", folder.file("src"), folder.file("cp")]) != nil {
      #expect(own <= Self.allocated(folder.file("cp")))
    }
    let convert = ["convert", "-O", "raw", folder.file("src"), folder.file("qemu")]
    if try Self.tool("qemu-img", convert) != nil {
      #expect(own <= Self.allocated(folder.file("qemu")))
    }
  }

  @Test(arguments: [
    ("sha256", "sha256sum"), ("sha384", "sha384sum"), ("sha512", "sha512sum"),
    ("blake2b", "b2sum"),
  ])
  func hashesAreThoseOfTheTools(_ algorithm: String, _ tool: String) throws {
    let folder = try Folder()
    _ = try Self.sparse(folder)
    let outcome = try Command.run("copy", "--hash", algorithm, "src", "a", "b", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    let expected = try #require(try Self.tool(tool, [folder.file("src")]))
    let digest = String(expected.prefix { $0 != " " })
    #expect(outcome.output.hasPrefix("\(digest)  src\n"))
    let good = try Command.run(
      "copy", "--json", "--hash", algorithm, "--expect", digest.uppercased(), "src", "c",
      in: folder)
    #expect(good.status == 0 && good.output.contains("\"matches\" : true"), "\(good.errors)")
    let other = String(repeating: "0", count: digest.count)
    let bad = try Command.run(
      "copy", "--hash", algorithm, "--expect", other, "src", "d", in: folder)
    #expect(bad.status == 1 && bad.errors.contains(other) && bad.errors.contains(digest))
    #expect(folder.names.contains("d"))
  }

  @Test func windowsAreHashedByThemselves() throws {
    let folder = try Folder()
    try folder.write("src", pattern(3_000_000))
    let outcome = try Command.run(
      "copy", "--hash", "sha256", "--hash-window", "1MiB", "src", "dst", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    try folder.write("window", try folder.read("src").dropFirst(1 << 20).prefix(1 << 20))
    let expected = try #require(try Self.tool("sha256sum", [folder.file("window")]))
    #expect(outcome.output.contains("\(expected.prefix { $0 != " " })  src bytes 1048576–2097151"))
  }

  @Test func onlyDifferencesAreWritten() throws {
    let folder = try Folder()
    let data = pattern(4 << 20)
    try folder.write("src", data)
    var old = data
    old[1_000_000] ^= 1
    old[3_000_000] ^= 1
    try folder.write("dst", old)
    let outcome = try Command.run("copy", "--diff", "--json", "src", "dst", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(try folder.read("dst") == data)
    #expect(outcome.output.contains("\"bytesEqual\" : \((4 << 20) - 2 * 4096)"))
  }

  @Test func whatIsReadBackIsRight() throws {
    let folder = try Folder()
    let data = try Self.sparse(folder)
    let outcome = try Command.run("copy", "--verify", "src", "a", "b", in: folder)
    #expect(outcome.status == 0 && outcome.output.contains("verified"), "\(outcome.errors)")
    #expect(try folder.read("b") == data)
  }

  @Test(arguments: [
    ["--hash-window", "0", "--hash", "sha256"], ["--hash-window", "1MiB"], ["--expect", "00"],
    ["--hash", "sha256", "--expect", "00"], ["--verify", "--no-sync"], ["--hash", "md5"],
    ["--hash", "sha256", "--expect", String(repeating: "g", count: 64)], ["--sparse", "maybe"],
    ["--clone", "always", "--diff"], ["--verify-retries", "101"],
  ])
  func refusals(_ options: [String]) throws {
    let folder = try Folder()
    try folder.write("src", pattern(5000))
    let outcome = try Command.run(["copy"] + options + ["src", "dst"], in: folder)
    #expect(outcome.status == 2)
    #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)")
    #expect(folder.names == ["src"])
  }

  /// On a file system that can clone, made for it: as root only.
  @Test(arguments: [("mkfs.btrfs", ["-q"], 256), ("mkfs.xfs", ["-q", "-m", "reflink=1"], 512)])
  func clones(_ make: String, _ options: [String], _ megabytes: Int) throws {
    let folder = try Folder()
    let image = folder.file("image")
    _ = FileManager.default.createFile(atPath: image, contents: nil)
    let file = try FileHandle(forWritingTo: URL(fileURLWithPath: image))
    try file.truncate(atOffset: UInt64(megabytes) << 20)
    try file.close()
    let mount = folder.file("mount")
    try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
    guard getuid() == 0, try Self.tool(make, options + [image]) != nil,
      try Self.tool("mount", ["-o", "loop", image, mount]) != nil
    else {
      print("skipped: needs root, loop devices and \(make)")
      return
    }
    defer { _ = try? Self.tool("umount", [mount]) }
    let data = pattern(3_000_000)
    try folder.write("mount/src", data)
    let outcome = try Command.run(
      "copy", "--explain", "--clone", "always", "mount/src", "mount/a", "mount/b", in: folder)
    #expect(outcome.status == 0 && outcome.output.contains("cloned"), "\(outcome.errors)")
    #expect(outcome.errors.contains("blocks are shared"))
    #expect(try folder.read("mount/b") == data)
    // One is elsewhere, and is copied.
    let mixed = try Command.run("copy", "mount/src", "mount/c", "d", in: folder)
    #expect(mixed.status == 0 && mixed.output.contains("1 of them cloned"), "\(mixed.errors)")
    #expect(try folder.read("d") == data)
    let refused = try Command.run("copy", "--clone", "always", "mount/src", "e", in: folder)
    #expect(refused.status == 2 && !folder.names.contains("e"))
  }
}
