import BlockIO
import BlockIOTesting
import Foundation
import Imaging
import Testing

@Suite struct MapfileTests {
  /// The example of ddrescue's manual, letter for letter.
  static let example = """
    # Mapfile. Created by GNU ddrescue version 1.27
    # Command line: ddrescue -d -c18 /dev/fd0 fdimage mapfile
    # Start time:   2015-07-21 09:37:44
    # Current time: 2015-07-21 09:38:19
    # Copying non-tried blocks... Pass 1 (forwards)
    # current_pos  current_status  current_pass
    0x00120000     ?               1
    #      pos        size  status
    0x00000000  0x00117000  +
    0x00117000  0x00000200  -
    0x00117200  0x00001000  /
    0x00118200  0x00007E00  *
    0x00120000  0x00048000  ?

    """

  @Test func `the manual's example is read and written letter for letter`() throws {
    let map = try Mapfile(parsing: Array(Self.example.utf8))
    #expect(map.text == Self.example)
    #expect(map.position == 0x120000 && map.phase == .copying && map.pass == 1)
    #expect(
      map.blocks.map(\.status) == [.finished, .badSector, .nonScraped, .nonTrimmed, .nonTried])
    #expect(map.blocks[1].bytes == 0x117000..<0x117200)
    #expect(map.comments.count == 5)
  }

  static let accepted: [(text: String, blocks: [Mapfile.Block])] = [
    ("", []), ("# nothing\n", []), ("0 + 1\n", []),
    ("0 + 1\n0 010 +\n", [.init(0..<8, .finished)]),
    ("0 + 1\n0 0X1f +\n", [.init(0..<31, .finished)]),
    ("0 +\n0 10 -", [.init(0..<10, .badSector)]),
    (
      "\n# x\n 0\t+ 1 # foo\r\n\r\n5 10 + # c\r\n# d\n15 1 ?\r\n",
      [.init(5..<15, .finished), .init(15..<16, .nonTried)]
    ),
    ("0 F 2\n0 9223372036854775807 ?\n", [.init(0..<(1 << 63) - 1, .nonTried)]),
  ]

  @Test(arguments: accepted.indices)
  func `what ddrescue takes is taken`(_ index: Int) throws {
    let (text, blocks) = Self.accepted[index]
    #expect(try Mapfile(parsing: Array(text.utf8)).blocks == blocks)
  }

  static let refused: [(text: String, line: Int, reason: String)] = [
    ("hello\n", 1, "no status line"), ("0 x 1\n", 1, "no status line"),
    ("-1 + 1\n", 1, "no status line"), ("0 + 0\n", 1, "'0' is no number of a pass"),
    ("0 + 0x1\n", 1, "no number of a pass"), ("# c\n0 + 1 7\n", 2, "no status line"),
    ("0 + 1\n0 08 +\n", 2, "no block"), ("0 + 1\n0 1k +\n", 2, "no block"),
    ("0 + 1\n0 10 x\n", 2, "no block"), ("0 + 1\n0 0x +\n", 2, "no block"),
    ("0 + 1\n0 10 +\n20 5 -\n", 3, "a gap behind the block before, which ends at byte 10"),
    ("0 + 1\n0 10 +\n\n5 5 -\n", 4, "an overlap with the block before, which ends at byte 10"),
    ("0 + 1\n0 0 +\n", 2, "an empty block"),
    ("0 + 1\n1 0x7fffffffffffffff ?\n", 2, "beyond what can be addressed"),
    ("0 + 1\n0 18446744073709551616 ?\n", 2, "no block"),
    ("0 + 1\n5 18446744073709551615 ?\n", 2, "beyond what can be addressed"),
  ]

  @Test(arguments: refused.indices)
  func `what is none is refused with its line and the reason`(_ index: Int) {
    let (text, line, reason) = Self.refused[index]
    let error = #expect(throws: Mapfile.Malformed.self) {
      try Mapfile(parsing: Array(text.utf8))
    }
    #expect(error?.line == line)
    #expect(error?.reason.contains(reason) == true, "\(error?.reason ?? "")")
  }

  /// Valid files with bytes changed, cut and doubled: an error or a map that survives a round.
  @Test func `any bytes end well`() throws {
    try forEachSeed(1500) { seed in
      var random = SeededRandom(seed: seed)
      var bytes = Array((seed % 3 == 0 ? randomMapfile(&random).text : Self.example).utf8)
      for _ in 0..<1 + random.next(upperBound: UInt64(6)) where !bytes.isEmpty {
        let place = Int(random.next(upperBound: UInt64(bytes.count)))
        switch random.next(upperBound: UInt64(5)) {
        case 0: bytes[place] = UInt8(truncatingIfNeeded: random.next())
        case 1: bytes.remove(at: place)
        case 2: bytes.insert(contentsOf: bytes[place...].prefix(40), at: place)
        case 3: bytes.removeSubrange(place..<min(bytes.count, place + 30))
        default: bytes[place] = Array("0x9 #\n+-?".utf8)[Int(random.next(upperBound: UInt64(9)))]
        }
      }
      guard let map = try? Mapfile(parsing: bytes) else { return }
      let again = try Mapfile(parsing: Array(map.text.utf8))
      try ensure(again == map, "another map after a round: \(map)")
      _ = StatusMap(map, byteCount: min(map.extent.upperBound, 1 << 40))
      _ = StatusMap(map, byteCount: 1234)
    }
  }

  @Test(.enabled(if: Tool("ddrescuelog") != nil, "ddrescuelog isn't installed"))
  func `ddrescuelog finds the same blocks in what is written`() throws {
    let tool = try #require(Tool("ddrescuelog"))
    let folder = try TemporaryFolder()
    for seed in UInt64(0)..<20 {
      var random = SeededRandom(seed: seed)
      let map = randomMapfile(&random)
      try map.text.write(toFile: folder.file("map"), atomically: false, encoding: .utf8)
      for status in BlockStatus.allCases {
        let outcome = try tool.run("-l\(status.rawValue)", "-b1", "map", in: folder)
        #expect(outcome.status == 0)
        let listed = outcome.output.split(separator: "\n").compactMap { UInt64($0) }
        #expect(
          listed == map.blocks.filter { $0.status == status }.flatMap { Array($0.bytes) },
          "seed \(seed), \(status)")
      }
    }
  }
}

/// Any mapfile of a few hundred bytes.
func randomMapfile(_ random: inout SeededRandom) -> Mapfile {
  var blocks: [Mapfile.Block] = []
  var position: UInt64 = 0
  for _ in 0..<random.next(upperBound: UInt64(12)) {
    let end = position + 1 + random.next(upperBound: UInt64(90))
    blocks.append(.init(position..<end, random.element(of: BlockStatus.allCases)))
    position = end
  }
  return Mapfile(
    comments: [" one", " two"], position: random.next(upperBound: 1 << 40),
    phase: random.element(of: RescuePhase.allCases),
    pass: 1 + Int(random.next(upperBound: UInt64(9))), blocks: blocks)
}
