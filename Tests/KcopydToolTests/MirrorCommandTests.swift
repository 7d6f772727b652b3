import Foundation
import Testing

/// The mirror commands and `move` on files.
@Suite struct MirrorCommandTests {
  let folder: Folder
  let data = pattern(3_000_000, seed: 1)

  init() throws {
    folder = try Folder()
    try folder.write("a", data)
    try folder.write("b", pattern(3_000_000, seed: 2))
    try folder.write("c", pattern(3_100_000, seed: 3))
  }

  private func run(_ line: String) throws -> Command.Outcome {
    try Command.run(line.split(separator: " ").map(String.init), in: folder)
  }

  @Test func `sync brings all legs up to date by the log`() throws {
    #expect(try run("mirror create-log log --for a --region 64KiB").status == 0)
    let outcome = try run("mirror sync a b c --log log --region 64KiB")
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.hasPrefix("3 legs are in sync: 46 of 46 regions copied in"))
    #expect(try folder.read("a") == data)
    #expect(try folder.read("b") == data)
    // A begun last sector is the mirror's as a whole.
    #expect(try folder.read("c").prefix(3_000_000) == data)
    #expect(try folder.read("c").suffix(99_000) == pattern(3_100_000, seed: 3).suffix(99_000))
    let again = try run("mirror sync a b c --log log --region 64KiB")
    #expect(again.output.hasPrefix("3 legs are in sync: 0 of 46 regions copied in"))
  }

  @Test func `sync copies what the log calls dirty, and nothing else`() throws {
    #expect(try run("mirror create-log log --for a --region 64KiB --in-sync").status == 0)
    var log = try folder.read("log")
    log[1024] = 0b1111_0111
    log[1026] = 0b0111_1111
    try folder.write("log", log)
    let info = try run("mirror info log --for a --region 64KiB")
    #expect(info.output.contains("clean         44 of 46\nto be copied  3, 23\n"))
    #expect(try run("mirror sync a b --log log --region 64KiB").status == 0)
    var expected = pattern(3_000_000, seed: 2)
    for region in [3, 23] {
      let bytes = region << 16..<(region + 1) << 16
      expected.replaceSubrange(bytes, with: data[bytes])
    }
    #expect(try folder.read("b") == expected)
  }

  @Test func `check finds what differs and mends it`() throws {
    var other = data
    other[1000 * 512] ^= 1
    other[5000 * 512 + 17] ^= 1
    try folder.write("b", other)
    let found = try run("mirror check a b")
    #expect(found.status == 1)
    #expect(found.output == "'b' differs in 2 sectors: 1000, 5000\n")
    #expect(try folder.read("b") == other)
    let mended = try run("mirror check a b --repair")
    #expect(mended.status == 0)
    #expect(mended.output.hasSuffix("made the same: 2 sectors, durable\n"))
    #expect(try folder.read("b") == data)
    #expect(try run("mirror check a b").output == "the same: 5860 sectors\n")
  }

  @Test func `a log for another number of regions is explained`() throws {
    #expect(try run("mirror create-log log --for a --region 64KiB").status == 0)
    let info = try run("mirror info log --for a --region 128KiB --json")
    #expect(info.output.contains("\"regions\" : 46"))
    let text = try run("mirror info log --for a --region 128KiB")
    #expect(text.output.contains("beware"))
    #expect(text.output.contains("the mirror would have 23 regions"))
  }

  @Test func `moves, and removes its state`() throws {
    let outcome = try run("move a new --verify")
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.hasPrefix("moved 'a' to 'new': 2 of 2 regions copied in"))
    #expect(try folder.read("new") == data)
    #expect(try folder.read("a") == data)
    #expect(folder.names == ["a", "b", "c", "new"])
  }

  @Test func `a move that was killed goes on`() throws {
    for _ in 0..<3 {
      let move = try Command.start(["move", "a", "new"], in: folder)
      usleep(30_000)
      kill(move.process.processIdentifier, SIGKILL)
      move.process.waitUntilExit()
      #expect(try folder.read("a") == data)
    }
    #expect(try run("move a new").status == 0)
    #expect(try folder.read("new") == data)
    #expect(folder.names == ["a", "b", "c", "new"])
  }

  @Test func `sync takes a sidecar and a rate`() throws {
    #expect(try run("mirror create-log log --for a --region 64KiB").status == 0)
    try folder.write("side", Data(count: 128 << 10))
    let line = "mirror sync a b --log log --region 64KiB --sidecar side --rate 1GiB/s"
    let outcome = try run(line)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(try folder.read("b") == data)
  }

  static let wrong = [
    RefusalTests.Wrong("mirror sync a b", "--log: a log is needed"),
    RefusalTests.Wrong("mirror sync a b --log log --rate 0", "--rate: must be more than 0"),
    RefusalTests.Wrong("mirror sync a b --log log --throttle 101", "must be 0 to 100"),
    RefusalTests.Wrong("mirror sync a b --log log --sidecar missing", "cannot open 'missing'"),
    RefusalTests.Wrong("mirror sync a b --log log --sidecar a", "'a' and 'a' are the same device"),
    RefusalTests.Wrong("mirror sync a --log log", "1 legs; 2 to 9 are possible"),
    RefusalTests.Wrong("mirror sync a a --log log", "'a' and 'a' are the same device"),
    RefusalTests.Wrong("mirror sync a b --log b", "'b' and 'b' are the same device"),
    RefusalTests.Wrong("mirror sync a b --log tiny", "the log 'tiny' is too small"),
    RefusalTests.Wrong("mirror sync a b --log log --region 3", "must be a power of two"),
    RefusalTests.Wrong("mirror sync a b --log log --region 1GiB", "from 2 to the length"),
    RefusalTests.Wrong("mirror sync a missing --log log", "cannot open 'missing'"),
    RefusalTests.Wrong("mirror check a", "1 legs; 2 to 9 are possible"),
    RefusalTests.Wrong("mirror check a b --log a", "'a' and 'a' are the same device"),
    RefusalTests.Wrong("mirror check a b --log c", "'c' holds no mirror log"),
    RefusalTests.Wrong("mirror info a", "'a' holds no mirror log"),
    RefusalTests.Wrong("mirror info new-log", "doesn't say for how many regions it is"),
    RefusalTests.Wrong("mirror info version", "version 9 of the mirror log isn't known"),
    RefusalTests.Wrong("mirror info log --for a", "--region: give it with --for or --size"),
    RefusalTests.Wrong("mirror create-log new", "give the length of the mirror"),
    RefusalTests.Wrong("mirror create-log log --for a", "holds a mirror log already; --overwrite"),
    RefusalTests.Wrong("mirror create-log new --for a --region 4MiB", "whole ones are possible"),
    RefusalTests.Wrong("mirror create-log a --for a", "'a' and 'a' are the same device"),
    RefusalTests.Wrong("move a a", "'a' is the source itself"),
    RefusalTests.Wrong("move missing new", "cannot open 'missing'"),
    RefusalTests.Wrong("move a tiny", "'tiny' is too small"),
    RefusalTests.Wrong("move a b --state a", "'a' is one of the devices"),
    RefusalTests.Wrong("move a new --state log", "there is a state file 'log', but no 'new'"),
    RefusalTests.Wrong("move a b --state log", "it belongs to the move of something else"),
  ]

  @Test(arguments: wrong)
  func `is refused`(_ wrong: RefusalTests.Wrong) throws {
    func log(version: UInt32, regions: UInt64) -> Data {
      var data = Data(count: 8192)
      withUnsafeBytes(of: (0x4D69_5272 as UInt32).littleEndian) {
        data.replaceSubrange(0..<4, with: $0)
      }
      withUnsafeBytes(of: version.littleEndian) { data.replaceSubrange(4..<8, with: $0) }
      withUnsafeBytes(of: regions.littleEndian) { data.replaceSubrange(8..<16, with: $0) }
      return data
    }
    try folder.write("log", log(version: 2, regions: 2))
    try folder.write("new-log", log(version: 2, regions: .max))
    try folder.write("version", log(version: 9, regions: 2))
    try folder.write("tiny", Data(count: 512))
    var before: [String: Data] = [:]
    for name in folder.names { before[name] = try folder.read(name) }
    let outcome = try Command.run(wrong.arguments, in: folder)
    #expect(outcome.status == 2)
    #expect(outcome.output.isEmpty)
    #expect(outcome.errors.contains(wrong.says), "\(outcome.errors)")
    #expect(outcome.errors.dropLast().contains("\n") == false, "more than one line")
    #expect(folder.names == before.keys.sorted())
    for (name, data) in before { #expect(try folder.read(name) == data, "\(name)") }
  }
}
