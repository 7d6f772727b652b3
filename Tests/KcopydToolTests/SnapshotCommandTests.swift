import BlockIO
import Foundation
import Snapshots
import Testing

/// The commands on stores that the library wrote, compared with what was written.
@Suite struct SnapshotCommandTests {
  let folder: Folder
  /// What the origin held when the snapshot was taken; 1000 bytes short of whole chunks.
  let before = pattern(2_000_000 - 1000, seed: 1)

  init() throws {
    folder = try Folder()
    try folder.write("origin", before)
  }

  /// Takes a snapshot and writes to both sides.
  ///
  /// - Returns: what the snapshot and the origin show then.
  private func takeSnapshot() async throws -> (snapshot: Data, origin: Data) {
    #expect(
      try Command.run("snapshot", "create", "origin", "cow", "--chunk", "8KiB", in: folder).status
        == 0)
    let loop = try IOLoop.start(backend: .threads)
    defer { loop.stop() }
    let how = FileDevice.Options(isWritable: true, direct: .off)
    let disk = try FileDevice.open(folder.file("origin"), how, on: loop)
    let cow = try FileDevice.open(folder.file("cow"), how, on: loop)
    let origin = try Origin(disk, on: loop)
    let snapshot = try await origin.addSnapshot(cow: cow, mustExist: true)
    try await snapshot.resume()
    var (shown, now) = (before, before)
    for (seed, first, count) in [(2, 5, 3), (3, 40, 100), (4, 3000, 16)] as [(UInt64, Int, Int)] {
      let data = pattern(count * 512, seed: seed)
      try await put(data, at: first, on: origin.device)
      now.replaceSubrange(first * 512..<(first + count) * 512, with: data)
    }
    for (seed, first, count) in [(5, 100, 64), (6, 3500, 7)] as [(UInt64, Int, Int)] {
      let data = pattern(count * 512, seed: seed)
      try await put(data, at: first, on: snapshot)
      shown.replaceSubrange(first * 512..<(first + count) * 512, with: data)
    }
    try await snapshot.flush()
    await snapshot.remove()
    return (shown, now)
  }

  private func put(_ data: Data, at first: Int, on device: any BlockDevice) async throws {
    let sectors = Sector(UInt64(first))..<Sector(UInt64(first + data.count / 512))
    let pages = try PagePool.lend(holding: sectors.length)
    let buffer = pages.buffer.slice(.zero, sectors.length)
    buffer.load(from: [UInt8](data))
    try await device.write(sectors, from: buffer)
  }

  @Test func `exports what the snapshot shows to an NBD export`() async throws {
    let (shown, _) = try await takeSnapshot()
    try folder.write("target", pattern(before.count, seed: 9))
    guard
      let server = try NetworkCommandTests.Server(
        ["file", folder.file("target")], "s", in: folder)
    else { return }
    let uri = "nbd+unix:///?socket=\(folder.file("s"))"
    let outcome = try Command.run("snapshot", "export", "origin", "cow", uri, "b", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.hasSuffix(", durable\n"))
    #expect(try folder.read("target") == shown)
    #expect(try folder.read("b") == shown)
    withExtendedLifetime(server) {}
  }

  @Test func `exports what the snapshot shows to several destinations`() async throws {
    let (shown, now) = try await takeSnapshot()
    let cow = try folder.read("cow")
    let outcome = try Command.run("snapshot", "export", "origin", "cow", "a", "b", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.hasPrefix("exported 1.9 MiB to 2 destinations in"))
    #expect(try folder.read("a") == shown)
    #expect(try folder.read("b") == shown)
    #expect(try folder.read("origin") == now)
    #expect(try folder.read("cow") == cow)
  }

  @Test func `merges the snapshot back and leaves an empty store`() async throws {
    let (shown, _) = try await takeSnapshot()
    let outcome = try Command.run("snapshot", "merge", "origin", "cow", in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.hasPrefix("merged 14 chunks (112.0 KiB) into 'origin' in"))
    #expect(outcome.output.hasSuffix("durable; 'cow' is empty\n"))
    #expect(try folder.read("origin") == shown)
    let map = try Command.run("snapshot", "map", "cow", in: folder)
    #expect((map.status, map.output) == (0, ""))
    let again = try Command.run("snapshot", "merge", "origin", "cow", "--json", in: folder)
    #expect(again.status == 0)
    #expect(again.output.contains("\"ending\" : \"merged\""))
  }

  @Test func `lists the extents that may differ, and no others`() async throws {
    let (shown, now) = try await takeSnapshot()
    let plain = try Command.run("snapshot", "map", "cow", "--origin", "origin", in: folder)
    let extents = plain.output.split(separator: "\n").map { line in
      line.split(separator: " ").compactMap { Int($0) }
    }
    #expect(extents.map { $0[0] } == [0, 32, 144, 2992, 3488])
    var same = now
    for extent in extents {
      let bytes = extent[0] * 512..<min((extent[0] + extent[1]) * 512, now.count)
      same.replaceSubrange(bytes, with: shown[bytes])
    }
    #expect(same == shown)
    let json = try Command.run("snapshot", "map", "cow", "--json", in: folder)
    let list = try #require(
      try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [[String: Int]])
    #expect(list.map { $0["start"] } == extents.map { $0[0] })
  }

  @Test func `tells what a store holds`() async throws {
    _ = try await takeSnapshot()
    let text = try Command.run("snapshot", "info", "cow", in: folder)
    #expect(text.status == 0)
    #expect(text.output.contains("state     valid\nchunk     8.0 KiB (16 sectors)\n"))
    #expect(text.output.contains("changed   14 chunks in"))
    #expect(text.output.contains("status    256/3952 32\n"))
    let json = try Command.run("snapshot", "info", "cow", "--json", in: folder)
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any])
    #expect(object["exceptions"] as? Int == 14)
    #expect(object["allocatedSectors"] as? Int == 256)
    let check = try Command.run("snapshot", "check", "cow", "--origin", "origin", in: folder)
    #expect((check.status, check.output) == (0, "sound: 14 exceptions in 1 areas\n"))
  }

  @Test func `lists everything that is wrong with a store`() async throws {
    _ = try await takeSnapshot()
    var cow = try folder.read("cow")
    func put(_ value: UInt64, at offset: Int) {
      withUnsafeBytes(of: value.littleEndian) { bytes in
        cow.replaceSubrange(offset..<offset + 8, with: bytes)
      }
    }
    put(1 << 30, at: 8192 + 8)
    put(1, at: 8192 + 16 + 8)
    put(0xffff_ffff, at: 8192 + 32)
    try folder.write("cow", cow)
    let check = try Command.run("snapshot", "check", "cow", "--origin", "origin", in: folder)
    #expect(check.status == 1)
    let lines = check.output.split(separator: "\n")
    #expect(lines.count == 4)
    #expect(lines[0].hasPrefix("error: byte 8192: chunk 0 would lie in chunk 1073741824, beyond"))
    #expect(lines[1].hasPrefix("error: byte 8208: "))
    #expect(lines[1].hasSuffix("would lie in metadata chunk 1"))
    #expect(lines[2] == "error: byte 8224: chunk 4294967295 lies beyond the end of the origin")
    #expect(lines[3] == "not sound: 11 exceptions could be read")
    for verb in ["map", "export", "merge"] {
      let arguments =
        verb == "map" ? ["cow"] : verb == "merge" ? ["origin", "cow"] : ["origin", "cow", "x"]
      let outcome = try Command.run(["snapshot", verb] + arguments, in: folder)
      #expect(outcome.status == 2, "\(verb)")
      #expect(!folder.names.contains("x"))
    }
    #expect(try folder.read("cow") == cow)
  }

  @Test func `an interrupted merge goes on`() async throws {
    // The signal finds it at work, or at its end: both must leave all whole.
    let (shown, now) = try await takeSnapshot()
    let merge = try Command.start(["snapshot", "merge", "origin", "cow"], in: folder)
    while merge.process.isRunning, try folder.read("origin") == now { usleep(1000) }
    if merge.process.isRunning { merge.process.interrupt() }
    let status = try merge.finish().status
    #expect([0, 130].contains(status))
    let export = try Command.run("snapshot", "export", "origin", "cow", "seen", in: folder)
    #expect(export.status == 0, "\(export.errors)")
    #expect(try folder.read("seen") == shown)
    #expect(try Command.run("snapshot", "merge", "origin", "cow", in: folder).status == 0)
    #expect(try folder.read("origin") == shown)
  }
}
