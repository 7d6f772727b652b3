/// What is known of a block of a source. The characters are those of the mapfile.
public enum BlockStatus: Character, CaseIterable, Sendable {
  /// Not read yet.
  case nonTried = "?"
  /// Part of a large read that failed; its edges are to be trimmed.
  case nonTrimmed = "*"
  /// Between trimmed edges; to be read sector by sector.
  case nonScraped = "/"
  /// Failed when it was read by itself.
  case badSector = "-"
  /// Copied.
  case finished = "+"
}

/// What a rescue is at. The characters are those of the mapfile's status line.
public enum RescuePhase: Character, CaseIterable, Sendable {
  case copying = "?"
  case trimming = "*"
  case scraping = "/"
  case retrying = "-"
  case filling = "F"
  case generating = "G"
  case finished = "+"
}

/// A mapfile of GNU ddrescue: what has been read of a source, in bytes. Pure.
///
/// Numbers may be decimal, hexadecimal (`0x`) or octal (a leading 0), as in C; the pass is decimal
/// and may be missing, as in files of old versions. `#` starts a comment. An empty file, or one
/// without blocks, knows nothing.
public struct Mapfile: Hashable, Sendable {
  /// A run of bytes of one status.
  public struct Block: Hashable, Sendable {
    /// Where, in bytes; never empty.
    public var bytes: Range<UInt64>
    /// What is known of it.
    public var status: BlockStatus

    /// A block.
    public init(_ bytes: Range<UInt64>, _ status: BlockStatus) {
      self.bytes = bytes
      self.status = status
    }
  }

  /// Why a text is no mapfile, and in which line.
  public struct Malformed: Error, Hashable, Sendable, CustomStringConvertible {
    /// The line, from 1 on.
    public let line: Int
    /// What is wrong with it.
    public let reason: String

    /// One line.
    public var description: String { "line \(line): \(reason)" }
  }

  /// The comments in front of the status line, without `#`.
  public var comments: [String]
  /// The byte being tried: of a forward pass the begin, of a backward one the end of the block.
  public var position: UInt64
  /// What was being done.
  public var phase: RescuePhase
  /// The number of the pass of that phase, from 1 on.
  public var pass: Int
  /// Contiguous and ascending.
  public var blocks: [Block]

  /// A mapfile with that content.
  ///
  /// - Precondition: the blocks are contiguous.
  public init(
    comments: [String] = [], position: UInt64 = 0, phase: RescuePhase = .copying, pass: Int = 1,
    blocks: [Block] = []
  ) {
    precondition(
      zip(blocks, blocks.dropFirst()).allSatisfy { $0.bytes.upperBound == $1.bytes.lowerBound })
    self.comments = comments
    self.position = position
    self.phase = phase
    self.pass = pass
    self.blocks = blocks
  }

  /// The bytes that the blocks cover.
  public var extent: Range<UInt64> {
    guard let first = blocks.first, let last = blocks.last else { return 0..<0 }
    return first.bytes.lowerBound..<last.bytes.upperBound
  }

  // MARK: Printing

  private static let statusHeading = " current_pos  current_status  current_pass"
  private static let blockHeading = "      pos        size  status"

  /// The text as ddrescue writes it.
  public var text: String {
    var text = ""
    for comment in comments {
      text += "#" + comment.replacing("\n", with: " ") + "\n"
    }
    text += "#\(Self.statusHeading)\n"
    text += "\(Self.hexadecimal(position))     \(phase.rawValue)               \(pass)\n"
    text += "#\(Self.blockHeading)\n"
    for block in blocks {
      let size = block.bytes.upperBound - block.bytes.lowerBound
      text += Self.hexadecimal(block.bytes.lowerBound)
      text += "  \(Self.hexadecimal(size))  \(block.status.rawValue)\n"
    }
    return text
  }

  private static func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16, uppercase: true)
    return "0x" + String(repeating: "0", count: max(0, 8 - digits.count)) + digits
  }

  // MARK: Parsing

  /// Reads a mapfile; whatever the bytes, it ends with one or with the line and the reason.
  public init(parsing bytes: [UInt8]) throws(Malformed) {
    self.init()
    var hasStatus = false
    // By bytes: a carriage return is white space then, and no byte is of two minds.
    for (index, line) in bytes.split(separator: 0x0A, omittingEmptySubsequences: false).enumerated()
    {
      let number = index + 1
      if !hasStatus, line.first == UInt8(ascii: "#") {
        note(comment: line.dropFirst())
        continue
      }
      let words = Self.words(line)
      guard !words.isEmpty else { continue }
      if hasStatus {
        try addBlock(words, line: number)
      } else {
        try setStatus(words, line: number)
        hasStatus = true
      }
    }
  }

  private mutating func note(comment bytes: ArraySlice<UInt8>) {
    let comment = String(decoding: bytes, as: UTF8.self)
    if comment != Self.statusHeading, comment != Self.blockHeading { comments.append(comment) }
  }

  /// What stands between white space, up to a comment.
  private static func words(_ line: ArraySlice<UInt8>) -> [String] {
    var words: [String] = []
    for word in line.split(whereSeparator: { $0 == 0x20 || (0x09...0x0D).contains($0) }) {
      if word.first == UInt8(ascii: "#") { break }
      words.append(String(decoding: word, as: UTF8.self))
    }
    return words
  }

  private mutating func setStatus(_ words: [String], line: Int) throws(Malformed) {
    guard (2...3).contains(words.count), let position = Self.number(words[0]),
      let phase = Self.character(words[1]).flatMap(RescuePhase.init)
    else {
      throw Malformed(line: line, reason: "no status line (position, one of ?*/-FG+, pass)")
    }
    if words.count == 3 {
      guard let pass = Int(words[2]), pass > 0 else {
        throw Malformed(line: line, reason: "'\(words[2])' is no number of a pass")
      }
      self.pass = pass
    }
    self.position = position
    self.phase = phase
  }

  private mutating func addBlock(_ words: [String], line: Int) throws(Malformed) {
    guard words.count == 3, let start = Self.number(words[0]), let size = Self.number(words[1]),
      let status = Self.character(words[2]).flatMap(BlockStatus.init)
    else {
      throw Malformed(line: line, reason: "no block (position, size, one of ?*/-+)")
    }
    let (end, overflow) = start.addingReportingOverflow(size)
    guard !overflow, end <= UInt64(Int64.max) else {
      throw Malformed(line: line, reason: "the block ends beyond what can be addressed")
    }
    guard size > 0 else { throw Malformed(line: line, reason: "an empty block") }
    if let last = blocks.last?.bytes.upperBound, last != start {
      let what = start > last ? "a gap behind" : "an overlap with"
      throw Malformed(line: line, reason: "\(what) the block before, which ends at byte \(last)")
    }
    blocks.append(Block(start..<end, status))
  }

  private static func character(_ word: String) -> Character? {
    word.count == 1 ? word.first : nil
  }

  /// A number as C writes it.
  private static func number(_ word: String) -> UInt64? {
    let digits: Substring
    let radix: Int
    if word.hasPrefix("0x") || word.hasPrefix("0X") {
      (digits, radix) = (word.dropFirst(2), 16)
    } else if word.count > 1, word.hasPrefix("0") {
      (digits, radix) = (word.dropFirst(), 8)
    } else {
      (digits, radix) = (word[...], 10)
    }
    guard digits.first != "+", digits.first != "-" else { return nil }
    return UInt64(digits, radix: radix)
  }
}
