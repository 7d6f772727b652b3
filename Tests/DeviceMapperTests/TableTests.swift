import BlockIO
import BlockIOTesting
@testable import DeviceMapper
import Testing

@Suite struct TableTests {
  @Test func wordsLinesAndComments() throws {
    let table = try TableDescription(
      """
      # the first

        0 8 linear /dev/a\\ b 0 # comment
      8\t8 linear /dev/c\\#d\\\\ 16
      """)
    #expect(table.lines.map(\.sectors) == [0..<8, 8..<16])
    #expect(table.lines[0].words.map(\.text) == ["/dev/a b", "0"])
    #expect(table.lines[1].words.map(\.text) == ["/dev/c#d\\", "16"])
    #expect(table.lines[1].words[0].line == 4)
    #expect(table.lines[1].words[0].position == 4)
    #expect(try TableDescription(table.description).description == table.description)
  }

  @Test(
    arguments: [
      ("", nil, nil), ("  # nothing", nil, nil), ("0", 1, 2), ("0 8", 1, 3), ("x 8 zero", 1, 1),
      ("0 -8 zero", 1, 2), ("0 0 zero", 1, 2), ("1 8 zero", 1, 1), ("0 8 zero\n9 8 zero", 2, 1),
      ("0 8 zero\n7 8 zero", 2, 1), ("0 18446744073709551616 zero", 1, 2),
      ("0 36028797018963968 zero", 1, 2),
    ] as [(String, Int?, Int?)])
  func refusals(text: String, line: Int?, word: Int?) throws {
    let error = try #require(throws: DeviceMapperError.self) { try TableDescription(text) }
    #expect(error.line == line && error.word == word, "\(error)")
  }

  /// Whatever the bytes: a table that reads as itself again, or a refusal.
  @Test func fuzz() throws {
    let pieces = [
      "0", "8", "16", " ", "  ", "\n", "\\", "#", "linear", "zero", "/dev/a", "\t", "é", "\u{0}",
      "99999999999999999999", "-1", "\r",
    ]
    var accepted = 0
    try forEachSeed(5_000) { seed in
      var random = SeededRandom(seed: seed)
      var text = random.chance(1, in: 2) ? "0 8 zero " : ""
      for _ in 0..<random.next(upperBound: 24 as UInt64) {
        text += pieces[Int(random.next(upperBound: UInt64(pieces.count)))]
      }
      guard let table = try? TableDescription(text) else { return }
      accepted += 1
      let again = try TableDescription(table.description)
      try ensure(
        again.lines.map(\.sectors) == table.lines.map(\.sectors)
          && again.lines.map { $0.words.map(\.text) } == table.lines.map { $0.words.map(\.text) },
        "'\(text)' is printed as '\(table.description)'")
    }
    #expect(accepted > 100)
  }
}
