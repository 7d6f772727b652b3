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
