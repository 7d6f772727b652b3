import Foundation
import Testing

/// Wrong use of the snapshot commands, and stores that aren't right: one clear line, status 2,
/// nothing written.
@Suite struct SnapshotRefusalTests {
  typealias Wrong = RefusalTests.Wrong

  static let cases = [
    Wrong("snapshot frobnicate", "frobnicate"),
    Wrong("snapshot create origin", "Missing expected argument '<cow>'"),
    Wrong("snapshot create missing cow", "cannot open 'missing': No such file or directory"),
    Wrong("snapshot create origin origin", "origin and COW device are the same"),
    Wrong("snapshot create origin link", "origin and COW device are the same"),
    Wrong("snapshot create empty new", "'empty' is empty"),
    Wrong("snapshot create origin new --chunk 0", "must be a power of two from 4KiB"),
    Wrong("snapshot create origin new --chunk 2KiB", "must be a power of two from 4KiB"),
    Wrong("snapshot create origin new --chunk 24", "must be a power of two from 4KiB"),
    Wrong("snapshot create origin new --chunk 2GiB", "must be a power of two from 4KiB"),
    Wrong("snapshot create origin new --chunk 3q", "unknown unit 'q'"),
    Wrong("snapshot create origin new --size 16KiB", "header and first area take 64"),
    Wrong("snapshot create origin store --size 1MiB", "'store' exists; its size isn't changed"),
    Wrong("snapshot create origin store", "'store' holds a snapshot store already; --overwrite"),
    Wrong("snapshot create origin noise", "'noise' holds something else"),
    Wrong("snapshot create origin tiny", "'tiny' byte 4096: the device ends before"),
    Wrong("snapshot create origin nowhere/new", "cannot create 'nowhere/new'"),
    Wrong("snapshot info missing", "cannot open 'missing'"),
    Wrong("snapshot info noise", "'noise' byte 0: not a snapshot store"),
    Wrong("snapshot info blank", "'blank' holds no snapshot store"),
    Wrong("snapshot info empty", "'empty' byte 0: the device ends before header"),
    Wrong("snapshot info truncated", "the device ends before header and first area: 2 chunks"),
    Wrong("snapshot info version", "byte 8: version 7 of the format isn't known"),
    Wrong(
      "snapshot info chunk24", "byte 12: a chunk size of 24 sectors: it must be a power of two"),
    Wrong("snapshot info chunk4", "byte 12: a chunk size of 4 sectors: it must be at least 8"),
    Wrong("snapshot info store --origin store", "origin and COW device are the same"),
    Wrong("snapshot check noise", "'noise' byte 0"),
    Wrong("snapshot map invalid", "'invalid' can't be relied on: marked invalid"),
    Wrong("snapshot export origin invalid new", "the snapshot is lost"),
    Wrong("snapshot export origin store", "no destination"),
    Wrong("snapshot export origin store origin", "'origin' is a part of the source"),
    Wrong("snapshot export origin store ./store", "'./store' is a part of the source"),
    Wrong("snapshot export origin store tiny", "'tiny' is too small"),
    Wrong("snapshot export origin blank new", "'blank' holds no snapshot store"),
    Wrong("snapshot export short entry new", "chunk 9 lies beyond the end of the origin"),
    Wrong("snapshot export origin origin new", "origin and COW device are the same"),
    Wrong("snapshot merge origin --socket none", "no daemon answers at 'none'"),
    Wrong("snapshot merge origin origin", "origin and COW device are the same"),
    Wrong("snapshot merge origin blank", "'blank' holds no snapshot store"),
    Wrong("snapshot merge origin invalid", "the snapshot is lost"),
    Wrong("snapshot merge short entry", "chunk 9 lies beyond the end of the origin"),
  ]

  /// A store of 8-sector chunks with these fields, and one exception if asked for.
  private static func store(
    valid: UInt32 = 1, version: UInt32 = 1, chunk: UInt32 = 8, exception: (UInt64, UInt64)? = nil
  ) -> Data {
    var data = Data(count: 64 * 512)
    let fields = [0x7041_6E53, valid, version, chunk].map(\.littleEndian)
    fields.withUnsafeBytes { data.replaceSubrange(0..<16, with: $0) }
    if let (old, new) = exception {
      [old.littleEndian, new.littleEndian].withUnsafeBytes {
        data.replaceSubrange(4096..<4112, with: $0)
      }
    }
    return data
  }

  private static let files: [String: Data] = [
    "origin": pattern(100 * 4096),
    "short": pattern(8 * 4096),
    "empty": Data(),
    "tiny": Data(count: 4096),
    "blank": Data(count: 65536),
    "noise": pattern(65536, seed: 9),
    "store": store(),
    "truncated": store().prefix(5000),
    "version": store(version: 7),
    "chunk24": store(chunk: 24),
    "chunk4": store(chunk: 4),
    "invalid": store(valid: 0),
    "entry": store(exception: (9, 2)),
  ]

  @Test(arguments: cases)
  func `is refused`(_ wrong: Wrong) throws {
    let folder = try Folder()
    for (name, data) in Self.files { try folder.write(name, data) }
    try FileManager.default.createSymbolicLink(
      atPath: folder.file("link"), withDestinationPath: folder.file("origin"))
    let outcome = try Command.run(wrong.arguments, in: folder)
    #expect(outcome.status == 2)
    #expect(outcome.output.isEmpty)
    #expect(outcome.errors.hasPrefix("kcopyd: "))
    #expect(outcome.errors.contains(wrong.says), "\(outcome.errors)")
    #expect(outcome.errors.dropLast().contains("\n") == false, "more than one line")
    #expect(folder.names == (Self.files.keys + ["link"]).sorted())
    for (name, data) in Self.files { #expect(try folder.read(name) == data, "\(name)") }
  }

  @Test(arguments: ["info cow", "map cow", "export origin cow new", "merge origin cow"])
  func `a COW device in use is refused`(_ line: String) throws {
    let folder = try Folder()
    try folder.write("origin", pattern(100 * 4096))
    try folder.write("cow", Self.store(exception: (9, 2)))
    let descriptor = open(folder.file("cow"), O_RDWR)
    defer { close(descriptor) }
    #expect(flock(descriptor, LOCK_EX) == 0)
    let before = folder.names
    let words = line.split(separator: " ").map(String.init)
    let outcome = try Command.run(["snapshot"] + words, in: folder)
    #expect(outcome.status == 2)
    #expect(
      outcome.errors == "kcopyd: cannot open 'cow': in use: locked by another program\n")
    #expect(folder.names == before)
  }
}
