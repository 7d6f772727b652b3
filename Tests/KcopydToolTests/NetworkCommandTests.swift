import Foundation
import Testing

/// The commands with exports of nbdkit as their ends.
@Suite struct NetworkCommandTests {
  let folder: Folder

  init() throws { folder = try Folder() }

  /// nbdkit on a socket of the folder, which is gone with it.
  final class Server {
    let process = Process()

    init?(_ arguments: [String], _ socket: String, in folder: Folder) throws {
      guard FileManager.default.isExecutableFile(atPath: "/usr/bin/nbdkit") else {
        print("skipped: nbdkit is not installed")
        return nil
      }
      process.executableURL = URL(fileURLWithPath: "/usr/bin/nbdkit")
      process.arguments = ["-f", "-U", folder.file(socket)] + arguments
      process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
      process.standardError = FileHandle.nullDevice
      try process.run()
      while process.isRunning, !FileManager.default.fileExists(atPath: folder.file(socket)) {
        usleep(5000)
      }
    }

    deinit {
      kill(process.processIdentifier, SIGKILL)
      process.waitUntilExit()
    }
  }

  private func uri(_ socket: String, _ export: String = "") -> String {
    "nbd+unix:///\(export)?socket=\(folder.file(socket))"
  }

  @Test func `from export to file and on to another export, byte for byte`() throws {
    let data = pattern(5_000_192)
    try folder.write("a", data)
    try folder.write("b", Data(count: data.count))
    let from = folder.file("a")
    let to = folder.file("b")
    guard let one = try Server(["-r", "file", from], "s1", in: folder),
      let other = try Server(["file", to], "s2", in: folder)
    else { return }
    let outcome = try Command.run("copy", uri("s1"), "copy", uri("s2"), in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.hasSuffix(", durable\n"))
    #expect(try folder.read("copy") == data)
    #expect(try folder.read("b") == data)
    #expect(try Command.run("compare", uri("s1"), uri("s2"), in: folder).status == 0)
    #expect(try Command.run("zero", uri("s2"), "--count", "8s", in: folder).status == 0)
    #expect(try folder.read("b") == Data(count: 4096) + data.dropFirst(4096))
    #expect(try Command.run("compare", uri("s1"), uri("s2"), in: folder).status == 1)
    let info = try Command.run("info", uri("s2"), in: folder)
    #expect(info.output.contains("network block device"))
    withExtendedLifetime((one, other)) {}
  }

  @Test func `read errors of the server are in the account`() throws {
    guard
      let server = try Server(
        ["--filter=error", "pattern", "2M", "error-pread=EIO", "error-pread-rate=100%"], "s",
        in: folder)
    else { return }
    let outcome = try Command.run("copy", uri("s"), "copy", in: folder)
    #expect(outcome.status == 1)
    #expect(outcome.errors.contains("cannot read"))
    withExtendedLifetime(server) {}
  }

  /// Holes are neither read nor written: the log of the servers says what they were asked for.
  @Test func `holes of an export aren't read, and become holes`() throws {
    let count = 16 << 20
    let islands = [3 << 20: pattern(65_536, seed: 2), 9 << 20: pattern(1 << 20, seed: 3)]
    var data = Data(count: count)
    try folder.write("a", Data())
    let file = try FileHandle(forWritingTo: URL(fileURLWithPath: folder.file("a")))
    try file.truncate(atOffset: UInt64(count))
    for (offset, island) in islands {
      data.replaceSubrange(offset..<offset + island.count, with: island)
      try file.seek(toOffset: UInt64(offset))
      try file.write(contentsOf: island)
    }
    try file.close()
    try folder.write("b", Data(repeating: 0xee, count: count))
    guard
      let source = try Server(
        ["-r", "--filter=log", "file", folder.file("a"), "logfile=\(folder.file("log"))"], "s1",
        in: folder),
      let target = try Server(["file", folder.file("b")], "s2", in: folder)
    else { return }
    let outcome = try Command.run("copy", uri("s1"), "copy", uri("s2"), in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    withExtendedLifetime((source, target)) {}
    #expect(try folder.read("copy") == data)
    #expect(try folder.read("b") == data)
    let total = islands.values.reduce(0) { $0 + $1.count }
    for name in ["copy", "b"] {
      var status = stat()
      #expect(stat(folder.file(name), &status) == 0)
      #expect(Int(status.st_blocks) * 512 <= total + 65_536, "\(name) isn't sparse")
    }
    let log = String(decoding: try folder.read("log"), as: UTF8.self)
    let read = log.matches(of: /Read id=\d+ offset=0x[0-9a-f]+ count=0x([0-9a-f]+)/)
      .reduce(0) { $0 + (Int($1.1, radix: 16) ?? count) }
    #expect(read == total, "\(log)")
  }

  /// A server that can't read some sectors, as ddrescue left them.
  @Test func `the account names the sectors that a server can't read`() throws {
    let data = pattern(4 << 20)
    try folder.write("a", data)
    try folder.write(
      "map",
      Data(
        """
        0x0 ? 1
        0x0 0x304000 +
        0x304000 0x1000 -
        0x305000 0xFB000 +

        """.utf8))
    guard
      let server = try Server(
        [
          "-r", "--filter=ddrescue", "file", folder.file("a"),
          "ddrescue-mapfile=\(folder.file("map"))",
        ], "s", in: folder)
    else { return }
    let plain = try Command.run("copy", uri("s"), "one", in: folder)
    #expect(plain.status == 1 && plain.errors.contains("not reached"), "\(plain.errors)")
    let zeros = try Command.run("copy", "--ignore-errors", uri("s"), "two", in: folder)
    #expect(zeros.status == 1)
    #expect(zeros.errors.contains("unreadable (written as zeros): 8 sectors"), "\(zeros.errors)")
    #expect(zeros.errors.contains("sectors 6176–6183"), "\(zeros.errors)")
    #expect(
      try folder.read("two")
        == data.prefix(0x304000) + Data(count: 4096) + data.suffix(from: 0x305000))
    let rescue = try Command.run("copy", "--rescue", "--map", "m", uri("s"), "three", in: folder)
    #expect(rescue.status == 1)
    #expect(rescue.errors.contains("lost: 8 sectors"), "\(rescue.errors)")
    #expect(
      try folder.read("three")
        == data.prefix(0x304000) + Data(count: 4096) + data.suffix(from: 0x305000))
    withExtendedLifetime(server) {}
  }

  @Test func `refusals are one line, and nothing is written`() throws {
    try folder.write("a", pattern(8192))
    let path = folder.file("a")
    guard let server = try Server(["-r", "file", path], "s", in: folder) else { return }
    let before = folder.names
    for arguments in [
      ["copy", uri("nobody"), "copy"], ["copy", path, uri("s")], ["copy", uri("s"), uri("s")],
      ["copy", "nbd://localhost:0/a", "copy"], ["copy", "nbd+unix:///a", "copy"],
      ["copy", "nbds+unix:///?socket=\(folder.file("s"))", "copy"], ["info", "nbd+ssh://host/"],
    ] {
      let outcome = try Command.run(arguments, in: folder)
      #expect(outcome.status == 2, "\(arguments)")
      #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)")
      #expect(folder.names == before)
    }
    withExtendedLifetime(server) {}
  }
}
