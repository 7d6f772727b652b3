import Foundation
import Testing

/// Copies with a map, and rescues, from sources of other kinds: exports that fail or are slow, disks
/// with large sectors.
@Suite struct SourceKindTests {
  let folder: Folder
  let data = pattern(3 << 20)

  init() throws {
    folder = try Folder()
    try folder.write("image", data)
  }

  private func server(_ filters: [String], _ settings: [String]) throws
    -> NetworkCommandTests.Server?
  {
    try NetworkCommandTests.Server(
      ["-r"] + filters.map { "--filter=\($0)" } + ["file", folder.file("image")] + settings, "s",
      in: folder)
  }

  private var uri: String { "nbd+unix:///?socket=\(folder.file("s"))" }

  private func status(of map: String) throws -> [Substring] {
    String(decoding: try folder.read(map), as: UTF8.self).split(separator: "\n")
      .filter { !$0.hasPrefix("#") }
  }

  @Test func `reads that fail now and then are tried until all is there`() throws {
    guard
      let server = try server(
        ["error", "delay"], ["error=EIO", "error-pread-rate=20%", "rdelay=1ms"])
    else { return }
    let outcome = try Command.run(
      "copy", "--rescue", "--retries", "-1", "--map", "map", uri, "a", "b", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(try folder.read("a") == data && folder.read("b") == data)
    let blocks = try status(of: "map").dropFirst().map { $0.split(separator: " ") }
    #expect(blocks.count == 1 && blocks.first?.last == "+", "\(blocks)")
    withExtendedLifetime(server) {}
  }

  @Test func `every read fails, and later none: nothing was claimed, and the same command ends it`()
    throws
  {
    try folder.write("trigger", Data())
    guard
      let server = try server(
        ["error"],
        ["error=EIO", "error-pread-rate=100%", "error-pread-file=\(folder.file("trigger"))"])
    else { return }
    for more in [[], ["--rescue"]] {
      let failed = try Command.run(
        ["copy", "--map", "map", uri, "a"] + more, in: folder)
      #expect(failed.status == 1, "\(failed)")
      #expect(try !status(of: "map").contains { $0.hasSuffix("+") })
      #expect(try folder.read("a") == Data(count: data.count))
    }
    try FileManager.default.removeItem(atPath: folder.file("trigger"))
    let outcome = try Command.run(
      "copy", "--map", "map", "--rescue", "--retries", "1", uri, "a", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(try folder.read("a") == data)
    withExtendedLifetime(server) {}
  }

  @Test func `a slow source is interrupted and gone on with`() throws {
    guard let server = try server(["delay"], ["rdelay=300ms"]) else { return }
    let running = try Command.start(
      ["copy", "--map", "map", "--map-interval", "50ms", "--sub-job-size", "64KiB", uri, "a"],
      in: folder)
    while running.process.isRunning, try !claims() { usleep(5000) }
    kill(running.process.processIdentifier, SIGINT)
    let outcome = try running.finish()
    #expect(outcome.status == 130 || outcome.status == 0, "\(outcome.errors)")
    let again = try Command.run("copy", "--map", "map", uri, "a", in: folder)
    #expect(again.status == 0, "\(again.errors)")
    #expect(try folder.read("a") == data)
    withExtendedLifetime(server) {}
  }

  private func claims() throws -> Bool {
    guard folder.names.contains("map") else { return false }
    return try status(of: "map").contains { $0.hasSuffix("+") }
  }

  @Test(
    .enabled(if: Loops.isPossible, "loop devices need root, losetup and a kernel that has them"),
    arguments: [[], ["--rescue"], ["--direct", "on"]])
  func `a disk with sectors of 4096 bytes, to one and from one`(_ more: [String]) throws {
    let holes = try ContentCopyTests.sparse(folder, "sparse")
    let length = holes.count / 4096 * 4096
    try folder.write("disk", Data(repeating: 0xaa, count: length))
    try Loops.withLoop(folder, "disk", ["--sector-size", "4096"]) { loop in
      let count = "\(length / 512)s"
      let there = try Command.run(
        ["copy", "--map", "to", "--count", count, "sparse", loop] + more, in: folder)
      #expect(there.status == 0, "\(there.errors)")
      let back = try Command.run(["copy", "--map", "from", loop, "back"] + more, in: folder)
      #expect(back.status == 0, "\(back.errors)")
    }
    #expect(try folder.read("disk") == holes.prefix(length))
    #expect(try folder.read("back") == holes.prefix(length))
  }
}
