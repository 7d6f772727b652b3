/// What a flakey target does while it is down.
struct FlakeyParameters: Hashable, Sendable {
  /// A byte that is replaced in requests of one direction.
  struct Corruption: Hashable, Sendable {
    /// Which byte of a request, from 1.
    var byte: UInt64
    var isWrite: Bool
    var value: UInt8
    /// The flags that a request must have: bits of the kernel's `bi_opf`.
    var flags: UInt32
  }

  /// Probabilities in billionths.
  static let certain: UInt64 = 1_000_000_000
  static let wordLimit = 11

  var errorReads = false
  var dropWrites = false
  var errorWrites = false
  var corruption: Corruption?
  var randomReadCorruption: UInt64 = 0
  var randomWriteCorruption: UInt64 = 0

  /// Reads `[#words word…]`.
  init(_ arguments: inout TargetArguments) throws(DeviceMapperError) {
    if !arguments.isAtEnd {
      let count: Int = try arguments.number("number of feature words", in: 0...Self.wordLimit)
      guard arguments.count >= count else {
        throw arguments.last.refused("fewer feature words than announced")
      }
      let left = arguments.count - count
      while arguments.count > left { try readFeature(&arguments, end: left) }
      guard arguments.count == left else {
        throw arguments.last.refused("more feature words than announced")
      }
    }
    if self == FlakeyParameters() {
      errorReads = true
      errorWrites = true
    }
  }

  private init() {}

  private mutating func readFeature(
    _ arguments: inout TargetArguments, end: Int
  ) throws(DeviceMapperError) {
    let word = try arguments.next("feature")
    let isTwice =
      switch word.text {
      case "error_reads": errorReads
      case "drop_writes": dropWrites
      case "error_writes": errorWrites
      case "corrupt_bio_byte": corruption != nil
      case "random_read_corrupt": randomReadCorruption > 0
      case "random_write_corrupt": randomWriteCorruption > 0
      default: throw word.refused("there is no feature '\(word.text)'")
      }
    if isTwice { throw word.refused("'\(word.text)' is given twice") }
    switch word.text {
    case "error_reads": errorReads = true
    case "drop_writes": dropWrites = true
    case "error_writes": errorWrites = true
    case "corrupt_bio_byte": corruption = try Self.corruption(&arguments)
    case "random_read_corrupt":
      randomReadCorruption = try arguments.number("probability", in: 1...Self.certain)
    default: randomWriteCorruption = try arguments.number("probability", in: 1...Self.certain)
    }
    try checkConflicts(word)
  }

  private static func corruption(
    _ arguments: inout TargetArguments
  ) throws(DeviceMapperError) -> Corruption {
    let byte: UInt64 = try arguments.number("byte", in: 1...UInt64(UInt32.max))
    let direction = try arguments.next("direction")
    guard ["r", "w"].contains(direction.text.lowercased()) else {
      throw direction.refused("'\(direction.text)' is no direction; r or w")
    }
    let value: UInt8 = try arguments.number("value", in: 0...UInt8.max)
    let flags: UInt32 = try arguments.number("flag mask", in: 0...UInt32.max)
    return Corruption(
      byte: byte, isWrite: direction.text.lowercased() == "w", value: value, flags: flags)
  }

  private func checkConflicts(_ word: TableWord) throws(DeviceMapperError) {
    let corruptsWrites = corruption?.isWrite == true || randomWriteCorruption > 0
    let corruptsReads = corruption?.isWrite == false || randomReadCorruption > 0
    if dropWrites && errorWrites {
      throw word.refused("drop_writes and error_writes contradict each other")
    }
    if (dropWrites || errorWrites) && corruptsWrites {
      throw word.refused(
        "a write can't be corrupted and \(dropWrites ? "dropped" : "failed") at once")
    }
    if errorReads && corruptsReads {
      throw word.refused("a read can't be corrupted and failed at once")
    }
  }

  /// The words as the kernel prints them.
  var words: String {
    var words: [String] = []
    if errorReads { words.append("error_reads") }
    if dropWrites { words.append("drop_writes") }
    if errorWrites { words.append("error_writes") }
    if let corruption {
      words += [
        "corrupt_bio_byte", "\(corruption.byte)", corruption.isWrite ? "w" : "r",
        "\(corruption.value)", "\(corruption.flags)",
      ]
    }
    if randomReadCorruption > 0 { words += ["random_read_corrupt", "\(randomReadCorruption)"] }
    if randomWriteCorruption > 0 { words += ["random_write_corrupt", "\(randomWriteCorruption)"] }
    return ([String(words.count)] + words).joined(separator: " ")
  }
}
