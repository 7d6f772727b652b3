import Foundation
import Testing

/// `copy --rescue` of a file that fails at some places: nbdkit serves it, nbdfuse shows it.
@Suite(.enabled(if: FailingFile.isPossible, "nbdkit, nbdfuse or /dev/fuse isn't there"))
struct RescueCommandTests {
  let folder: Folder
  let data: Data

  init() throws {
    folder = try Folder()
    data = pattern(2 << 20)
    try folder.write("image", data)
  }

  private static let bad = [100_000, 700_000, 701_000, 705_000, 1_900_000]

  /// The data with zeros in the pages of 4096 bytes – a file of fuse is read in them – that hold a
  /// bad place.
  private var rescued: Data {
    var rescued = data
    for place in Self.bad {
      let start = place / 4096 * 4096
      rescued.replaceSubrange(start..<start + 4096, with: Data(count: 4096))
    }
    return rescued
  }

  private func blocks(_ map: String) throws -> [Substring] {
    String(decoding: try folder.read(map), as: UTF8.self).split(separator: "\n")
      .filter { !$0.hasPrefix("#") }.dropFirst().map { $0 }
  }

  @Test func `all that can be read is on all destinations, as with ddrescue`() throws {
    let file = try FailingFile(folder.file("image"), bad: Self.bad, in: folder)
    let outcome = try Command.run(
      "copy", "--rescue", "--map", "map", file.path, "a", "b", in: folder)
    #expect(outcome.status == 1)
    #expect(outcome.errors.contains("lost: 40 sectors"), "\(outcome.errors)")
    #expect(outcome.errors.contains("  sectors 192–199\n"), "\(outcome.errors)")
    #expect(try folder.read("a") == rescued)
    #expect(try folder.read("b") == rescued)
    if let ddrescue = program("ddrescue") {
      let process = Process()
      process.executableURL = URL(fileURLWithPath: ddrescue)
      process.arguments = ["-q", file.path, folder.file("c"), folder.file("other")]
      try process.run()
      process.waitUntilExit()
      #expect(try blocks("map") == blocks("other"))
      #expect(try folder.read("c") == rescued)
    }
    // The bad ones can be read now: another pass gets them, and only them.
    try file.mend()
    let mended = try Command.run(
      "copy", "--rescue", "--retries", "1", "--map", "map", file.path, "a", "b", in: folder)
    #expect(mended.status == 0, "\(mended.errors)")
    #expect(mended.output.contains("the last 20.0 KiB"), "\(mended.output)")
    #expect(try folder.read("a") == data && folder.read("b") == data)
  }

  @Test func `without a rescue it ends, and the map says where`() throws {
    let file = try FailingFile(folder.file("image"), bad: Self.bad, in: folder)
    let ended = try Command.run("copy", "--map", "map", file.path, "a", in: folder)
    #expect(ended.status == 1)
    #expect(ended.errors.contains("with --rescue it goes on"), "\(ended.errors)")
    #expect(try blocks("map").contains { $0.hasSuffix("*") })
    let marked = try Command.run(
      "copy", "--map", "map", "--rescue", "--fill", "marker", "--json", file.path, "a", in: folder)
    #expect(marked.status == 1)
    let json = try #require(
      try JSONSerialization.jsonObject(with: Data(marked.output.utf8)) as? [String: Any])
    #expect(json["lostBytes"] as? Int == 5 * 4096)
    #expect((json["lost"] as? [[String: Int]])?.first == ["sector": 192, "count": 8])
    let copy = try folder.read("a")
    let sector = String(decoding: copy[192 * 512..<193 * 512], as: UTF8.self)
    #expect(sector.hasPrefix("kcopyd: sector 192 couldn't be read\n"))
    #expect(copy.prefix(192 * 512) == data.prefix(192 * 512))
    #expect(try blocks("map").contains { $0.hasSuffix("-") })
  }

  @Test func `retries without end are interrupted, and gone on with`() throws {
    let file = try FailingFile(folder.file("image"), bad: Self.bad, in: folder)
    let running = try Command.start(
      [
        "copy", "--rescue", "--retries", "-1", "--map", "map", "--map-interval", "20ms", file.path,
        "a",
      ], in: folder)
    // The status line of the mapfile says what it is at.
    while running.process.isRunning {
      let text = (try? folder.read("map")).map { String(decoding: $0, as: UTF8.self) } ?? ""
      let status = text.split(separator: "\n").first { !$0.hasPrefix("#") }
      if status?.contains(" - ") == true { break }
      usleep(5000)
    }
    kill(running.process.processIdentifier, SIGTERM)
    let outcome = try running.finish()
    #expect(outcome.status == 130)
    #expect(outcome.errors.contains("the same command goes on, from 'map'"), "\(outcome.errors)")
    #expect(try folder.read("a") == rescued)
    try file.mend()
    let mended = try Command.run(
      "copy", "--rescue", "--retries", "-1", "--map", "map", file.path, "a", in: folder)
    #expect(mended.status == 0, "\(mended.errors)")
    #expect(try folder.read("a") == data)
  }

  @Test func `a source that can't be read anywhere`() throws {
    let file = try FailingFile(
      folder.file("image"), bad: Array(stride(from: 0, to: 2 << 20, by: 4096)), in: folder)
    let outcome = try Command.run("copy", "--rescue", "--map", "map", file.path, "a", in: folder)
    #expect(outcome.status == 1)
    #expect(outcome.errors.contains("lost: 4096 sectors"), "\(outcome.errors)")
    #expect(try folder.read("a") == Data(count: 2 << 20))
    let few = try Command.run(
      "copy", "--rescue", "--max-errors", "3", file.path, "b", in: folder)
    #expect(few.status == 1)
    #expect(few.errors.contains("with more read errors than --max-errors"), "\(few.errors)")
  }
}

/// A file whose reads fail where they touch certain bytes.
final class FailingFile {
  let path: String
  private let process = Process()
  private let list: String

  static let isPossible =
    program("nbdkit") != nil && program("nbdfuse") != nil && access("/dev/fuse", R_OK | W_OK) == 0

  init(_ image: String, bad: [Int], in folder: Folder) throws {
    let base = folder.scratch().path
    try FileManager.default.createDirectory(
      atPath: "\(base)/mount", withIntermediateDirectories: true)
    path = "\(base)/mount/disk"
    list = "\(base)/bad"
    try bad.map { "\($0)\n" }.joined().write(toFile: list, atomically: true, encoding: .utf8)
    let script = """
      #!/bin/bash
      case "$1" in
        get_size) stat -c %s '\(image)' ;;
        pread)
          while read b; do
            if [ $4 -le $b ] && [ $(($4 + $3)) -gt $b ]; then echo EIO >&2; exit 1; fi
          done < '\(list)'
          dd if='\(image)' iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k status=none ;;
        can_write) exit 3 ;;
        *) exit 2 ;;
      esac
      """
    try script.write(toFile: "\(base)/plugin", atomically: true, encoding: .utf8)
    try FileManager.default.setAttributes(
      [.posixPermissions: 0o755], ofItemAtPath: "\(base)/plugin")
    process.executableURL = URL(fileURLWithPath: try #require(program("nbdfuse")))
    process.arguments = [path, "--command", "nbdkit", "-s", "sh", "\(base)/plugin"]
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    while process.isRunning, access(path, R_OK) != 0 { usleep(5000) }
    try #require(process.isRunning, "nbdfuse has ended")
  }

  /// From now on everything can be read.
  func mend() throws { try "".write(toFile: list, atomically: true, encoding: .utf8) }

  deinit {
    let unmount = Process()
    unmount.executableURL = URL(fileURLWithPath: program("fusermount3") ?? "/bin/fusermount")
    unmount.arguments = ["-uz", URL(fileURLWithPath: path).deletingLastPathComponent().path]
    unmount.standardError = FileHandle.nullDevice
    if (try? unmount.run()) != nil { unmount.waitUntilExit() }
    // It ends by itself when it is unmounted; if not, there is nothing in it to lose.
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
  }
}
