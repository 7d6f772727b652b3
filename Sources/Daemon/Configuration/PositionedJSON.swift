/// A JSON value that knows where in its text it stands.
struct PositionedJSON: Sendable {
  indirect enum Value: Sendable {
    case object([(key: PositionedJSON, value: PositionedJSON)])
    case array([PositionedJSON])
    case string(String)
    case number(String)
    case bool(Bool)
    case null
  }

  /// A place in a text, counted from 1; columns in characters.
  struct Position: Hashable, Sendable, CustomStringConvertible {
    var line = 1
    var column = 1
    var description: String { "line \(line), column \(column)" }
  }

  /// What is wrong with a text, and where.
  struct Malformed: Error, Hashable {
    var position: Position
    var reason: String
  }

  var value: Value
  var position: Position

  /// The whole of `text`.
  init(_ text: String) throws(Malformed) {
    var reader = JSONReader(text)
    self = try reader.value(depth: 0)
    reader.skipBlanks()
    guard reader.isAtEnd else { throw reader.malformed("nothing may follow") }
  }

  fileprivate init(_ value: Value, _ position: Position) {
    self.value = value
    self.position = position
  }

  /// What kind of value it is, for messages.
  var kind: String {
    switch value {
    case .object: "an object"
    case .array: "a list"
    case .string: "a text"
    case .number: "a number"
    case .bool: "true or false"
    case .null: "null"
    }
  }
}

/// Reads RFC 8259, strictly; names must not come twice in an object.
private struct JSONReader {
  private let characters: [Character]
  private var index = 0
  private var position = PositionedJSON.Position()

  init(_ text: String) { characters = Array(text) }

  var isAtEnd: Bool { index == characters.count }
  private var next: Character? { isAtEnd ? nil : characters[index] }

  func malformed(_ reason: String) -> PositionedJSON.Malformed {
    PositionedJSON.Malformed(position: position, reason: reason)
  }

  @discardableResult
  private mutating func take() -> Character? {
    guard let character = next else { return nil }
    index += 1
    if character.isNewline {
      position = .init(line: position.line + 1, column: 1)
    } else {
      position.column += 1
    }
    return character
  }

  mutating func skipBlanks() {
    while let character = next, " \t\n\r\r\n".contains(character) { take() }
  }

  private mutating func expect(_ character: Character) throws(PositionedJSON.Malformed) {
    skipBlanks()
    guard next == character else { throw malformed("'\(character)' is missing") }
    take()
  }

  mutating func value(depth: Int) throws(PositionedJSON.Malformed) -> PositionedJSON {
    skipBlanks()
    let start = position
    guard depth < 16 else { throw malformed("nested too deeply") }
    switch next {
    case "{": return PositionedJSON(.object(try object(depth)), start)
    case "[": return PositionedJSON(.array(try array(depth)), start)
    case "\"": return PositionedJSON(.string(try string()), start)
    case .some(let character) where character == "-" || character.isASCIIDigit:
      return PositionedJSON(.number(try number()), start)
    case .some: return PositionedJSON(try word(), start)
    case nil: throw malformed("a value is missing")
    }
  }

  private mutating func object(
    _ depth: Int
  ) throws(PositionedJSON.Malformed) -> [(key: PositionedJSON, value: PositionedJSON)] {
    take()
    var members: [(key: PositionedJSON, value: PositionedJSON)] = []
    var names = Set<String>()
    skipBlanks()
    if next == "}" {
      take()
      return members
    }
    while true {
      skipBlanks()
      let start = position
      guard next == "\"" else { throw malformed("a name in quotes is missing") }
      let name = try string()
      guard names.insert(name).inserted else {
        throw PositionedJSON.Malformed(position: start, reason: "'\(name)' stands here twice")
      }
      try expect(":")
      members.append((PositionedJSON(.string(name), start), try value(depth: depth + 1)))
      skipBlanks()
      guard next == "," else { break }
      take()
    }
    try expect("}")
    return members
  }

  private mutating func array(_ depth: Int) throws(PositionedJSON.Malformed) -> [PositionedJSON] {
    take()
    var elements: [PositionedJSON] = []
    skipBlanks()
    if next == "]" {
      take()
      return elements
    }
    while true {
      elements.append(try value(depth: depth + 1))
      skipBlanks()
      guard next == "," else { break }
      take()
    }
    try expect("]")
    return elements
  }

  private mutating func string() throws(PositionedJSON.Malformed) -> String {
    take()
    var text = ""
    while let character = take() {
      switch character {
      case "\"": return text
      case "\\": text.unicodeScalars.append(try escape())
      case _ where character.unicodeScalars.contains { $0.value < 0x20 }:
        throw malformed("a text must end in its line")
      default: text.append(character)
      }
    }
    throw malformed("a text doesn't end")
  }

  private mutating func escape() throws(PositionedJSON.Malformed) -> Unicode.Scalar {
    switch take() {
    case "\"": return "\""
    case "\\": return "\\"
    case "/": return "/"
    case "b": return "\u{8}"
    case "f": return "\u{C}"
    case "n": return "\n"
    case "r": return "\r"
    case "t": return "\t"
    case "u":
      let high = try hexadecimal()
      guard 0xD800..<0xDC00 ~= high else {
        guard let scalar = Unicode.Scalar(high) else { throw malformed("no character") }
        return scalar
      }
      guard take() == "\\", take() == "u" else { throw malformed("half a character") }
      let low = try hexadecimal()
      guard 0xDC00..<0xE000 ~= low,
        let scalar = Unicode.Scalar(0x10000 + (high - 0xD800) << 10 + (low - 0xDC00))
      else { throw malformed("half a character") }
      return scalar
    default: throw malformed("unknown character behind '\\'")
    }
  }

  private mutating func hexadecimal() throws(PositionedJSON.Malformed) -> UInt32 {
    var number: UInt32 = 0
    for _ in 0..<4 {
      guard let digit = take()?.hexDigitValue else {
        throw malformed("four hexadecimal digits are missing")
      }
      number = number << 4 + UInt32(digit)
    }
    return number
  }

  private mutating func number() throws(PositionedJSON.Malformed) -> String {
    let start = position
    var text = ""
    while let character = next, character.isASCIIDigit || "+-.eE".contains(character) {
      text.append(character)
      take()
    }
    guard Double(text) != nil else {
      throw PositionedJSON.Malformed(position: start, reason: "'\(text)' is no number")
    }
    return text
  }

  private mutating func word() throws(PositionedJSON.Malformed) -> PositionedJSON.Value {
    let start = position
    var text = ""
    while let character = next, character.isLetter {
      text.append(character)
      take()
    }
    switch text {
    case "true": return .bool(true)
    case "false": return .bool(false)
    case "null": return .null
    default: throw PositionedJSON.Malformed(position: start, reason: "a value is missing")
    }
  }
}

extension Character {
  fileprivate var isASCIIDigit: Bool { "0"..."9" ~= self }
}
