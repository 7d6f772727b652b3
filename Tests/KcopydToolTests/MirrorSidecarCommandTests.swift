import Foundation
import Testing

/// The mirror commands with a sidecar.
@Suite struct MirrorSidecarCommandTests {
  let folder: Folder
  let a = pattern(1 << 20, seed: 1)
  let b = pattern(1 << 20, seed: 2)
  /// 16 regions of 64 KiB.
  private static let shape = "--region 64KiB"

  init() throws {
    folder = try Folder()
    try folder.write("a", a)
    try folder.write("b", b)
    try folder.write("side", Self.sidecar([(3..<5, 0b10), (7..<8, 0b11)]))
    #expect(try run("mirror create-log log --for a \(Self.shape) --in-sync").status == 0)
  }

  private func run(_ line: String) throws -> Command.Outcome {
    try Command.run(line.split(separator: " ").map(String.init), in: folder)
  }

  /// The first slot of a sidecar, laid out by hand.
  private static func sidecar(
    legs: UInt64 = 2, regions: UInt64 = 16, _ runs: [(regions: Range<UInt64>, holders: UInt64)]
  ) -> Data {
    var words: [UInt64] = [
      0x726F_7272_694D_636B, 1, legs, 1, regions, 128, UInt64(runs.count), 0,
    ]
    for run in runs { words += [run.regions.lowerBound, UInt64(run.regions.count), run.holders] }
    words += Array(repeating: 0, count: 8192 - words.count)
    words[7] = words.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ $1) &* 0x100_0000_01b3 }
    return words.reduce(into: Data()) { data, word in
      withUnsafeBytes(of: word.littleEndian) { data.append(contentsOf: $0) }
    } + Data(count: 64 << 10)
  }

  /// `base` with some regions of `other`.
  private func mixed(_ base: Data, _ other: Data, _ regions: [Int]) -> Data {
    var mixed = base
    for region in regions {
      let bytes = region << 16..<(region + 1) << 16
      mixed.replaceSubrange(bytes, with: other[bytes])
    }
    return mixed
  }

  /// Calls regions dirty in the log.
  private func makeDirty(_ regions: [Int]) throws {
    var log = try folder.read("log")
    for region in regions { log[1024 + region / 8] &= ~(1 << UInt8(region % 8)) }
    try folder.write("log", log)
  }

  @Test func `create-log makes one, which says nothing yet`() throws {
    let made = try run("mirror create-log new --for a \(Self.shape) --sidecar beside")
    #expect(made.status == 0, "\(made.errors)")
    #expect(made.output.hasSuffix("made a sidecar in 'beside', durable\n"))
    #expect(try folder.read("beside") == Data(count: 128 << 10))
    let info = try run("mirror info new --sidecar beside")
    #expect(info.output.contains("sidecar       new: the first leg is right"))
    let synced = try run("mirror sync a b --log new --sidecar beside \(Self.shape)")
    #expect(synced.status == 0, "\(synced.errors)")
    #expect(try folder.read("b") == a)
  }

  @Test func `create-log ends an old one only when told to`() throws {
    let before = try folder.read("side")
    let refused = try run("mirror create-log new --for a \(Self.shape) --sidecar side")
    #expect(refused.status == 2)
    #expect(refused.errors.contains("'side' holds a sidecar already; --overwrite ends it"))
    #expect(try folder.read("side") == before)
    #expect(!folder.names.contains("new"))
    let line = "mirror create-log log --for a \(Self.shape) --sidecar side --overwrite"
    #expect(try run(line).status == 0)
    #expect(try folder.read("side") == Data(count: 128 << 10))
  }

  @Test func `sync copies from the leg that is right`() throws {
    try makeDirty([2, 3, 7])
    let outcome = try run("mirror sync a b --log log --sidecar side \(Self.shape)")
    #expect(outcome.status == 0, "\(outcome.errors)")
    // Region 4 is the same by the log: that leg 1 alone is right there is from before.
    #expect(try folder.read("a") == mixed(a, b, [3]))
    #expect(try folder.read("b") == mixed(b, a, [2, 7]))
  }

  @Test func `info shows where which leg is right`() throws {
    try makeDirty([2, 4, 7])
    let info = try run("mirror info log --sidecar side")
    #expect(
      info.output.contains(
        """
        sidecar       2 legs, 16 regions of 128 sectors
        right         4: leg 1
        right         7: leg 0, 1

        """), "\(info.output)")
    let document = try run("mirror info log --sidecar side --json")
    #expect(document.output.contains("\"regionSectors\" : 128"), "\(document.output)")
  }

  @Test func `check leaves out what the first leg isn't right for`() throws {
    let outcome = try run("mirror check a b --repair --sidecar side \(Self.shape)")
    #expect(outcome.status == 1)
    #expect(
      outcome.output.contains(
        "left out, as the sidecar says that another leg is right there: 384–639; give the log"),
      "\(outcome.output)")
    #expect(try folder.read("a") == a)
    #expect(try folder.read("b") == mixed(a, b, [3, 4]))
  }

  @Test func `check believes the log where it says that all are the same`() throws {
    try makeDirty([3])
    let outcome = try run("mirror check a b --repair --log log --sidecar side \(Self.shape)")
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(outcome.output.contains("out of sync, not compared: 384–511"), "\(outcome.output)")
    #expect(try folder.read("b") == mixed(a, b, [3]))
  }

  @Test(arguments: [
    ("side --region 128KiB", "'side' belongs to a mirror of 2 legs and 16 regions"),
    ("a \(shape)", "'a' and 'a' are the same device"),
    ("garbage \(shape)", "'garbage' holds no sidecar, and isn't zero as a new one would be"),
    ("tiny \(shape)", "'tiny' is too small for a sidecar"),
    ("missing \(shape)", "cannot open 'missing'"),
  ])
  func `what is no sidecar of this mirror is refused`(_ end: String, _ says: String) throws {
    try folder.write("garbage", pattern(128 << 10, seed: 9))
    try folder.write("tiny", Data(count: 512))
    for line in ["mirror check a b --repair", "mirror sync a b --log new"] {
      if line.contains("new") {
        let region = end.hasSuffix("128KiB") ? "128KiB" : "64KiB"
        #expect(try run("mirror create-log new --for a --region \(region)").status == 0)
      }
      let outcome = try run("\(line) --sidecar \(end)")
      #expect(outcome.status == 2)
      #expect(outcome.errors.contains(says), "\(outcome.errors)")
      #expect(outcome.output.isEmpty)
    }
    #expect(try folder.read("b") == b)
    #expect(try folder.read("garbage") == pattern(128 << 10, seed: 9))
  }
}
