/// A word of a table, with the place where it stands.
public struct TableWord: Hashable, Sendable, CustomStringConvertible {
  /// The word, quoting taken away.
  public let text: String
  /// Its line, from 1.
  public let line: Int
  /// The how manieth word of the line it is, from 1.
  public let position: Int

  /// A word.
  public init(_ text: String, line: Int, position: Int) {
    self.text = text
    self.line = line
    self.position = position
  }

  /// The word.
  public var description: String { text }

  /// A refusal of this word.
  func refused(_ reason: String, advice: String? = nil) -> DeviceMapperError {
    DeviceMapperError(.table, line: line, word: position, reason, advice: advice)
  }

  /// The word as a decimal number.
  func number(_ what: String) throws(DeviceMapperError) -> UInt64 {
    guard !text.isEmpty, text.utf8.allSatisfy({ UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 })
    else { throw refused("'\(text)' is no \(what): a decimal number is wanted") }
    guard let number = UInt64(text) else { throw refused("'\(text)' is too large a \(what)") }
    return number
  }

  /// The word as a number of sectors, or a sector.
  func sector(_ what: String) throws(DeviceMapperError) -> UInt64 {
    let number = try number(what)
    guard number <= UInt64(Int64.max) / 512 else {
      throw refused("'\(text)' is too large a \(what)")
    }
    return number
  }
}

/// Words and lines as dmsetup and the kernel take them: blanks separate words, a backslash takes
/// the next character as it is, `#` starts a comment.
package enum TableText {
  /// The most lines of a table.
  static let lineLimit = 1 << 20

  /// The lines that hold words.
  static func lines(_ text: String) throws(DeviceMapperError) -> [[TableWord]] {
    var lines: [[TableWord]] = []
    var number = 0
    for line in text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
      number += 1
      guard number <= lineLimit else {
        throw DeviceMapperError(.table, line: number, "more than \(lineLimit) lines")
      }
      let words = try words(line, line: number)
      if !words.isEmpty { lines.append(words) }
    }
    return lines
  }

  private static func words(
    _ line: some Sequence<UInt8>, line number: Int
  ) throws(DeviceMapperError) -> [TableWord] {
    var words: [TableWord] = []
    var word: [UInt8]?
    var isQuoted = false
    func end() throws(DeviceMapperError) {
      guard let bytes = word else { return }
      guard let text = String(validating: bytes, as: UTF8.self), !bytes.contains(0) else {
        throw DeviceMapperError(
          .table, line: number, word: words.count + 1, "bytes that are no text")
      }
      words.append(TableWord(text, line: number, position: words.count + 1))
      word = nil
    }
    for byte in line {
      if isQuoted {
        word = (word ?? []) + [byte]
        isQuoted = false
      } else if byte == UInt8(ascii: "\\") {
        word = word ?? []
        isQuoted = true
      } else if isBlank(byte) {
        try end()
      } else if byte == UInt8(ascii: "#") {
        break
      } else {
        word = (word ?? []) + [byte]
      }
    }
    // Nothing is left to quote: the backslash stands for itself.
    if isQuoted { word = (word ?? []) + [UInt8(ascii: "\\")] }
    try end()
    return words
  }

  private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || 0x09...0x0d ~= byte }

  /// The word as it must be written so that it is read as it is.
  package static func quoted(_ word: String) -> String {
    guard word.utf8.contains(where: { isBlank($0) || $0 == UInt8(ascii: "\\") || $0 == 0x23 })
    else { return word }
    var bytes: [UInt8] = []
    for byte in word.utf8 {
      if isBlank(byte) || byte == UInt8(ascii: "\\") || byte == 0x23 {
        bytes.append(UInt8(ascii: "\\"))
      }
      bytes.append(byte)
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
