public import BlockIO

/// A line of a table: `START LENGTH TARGET WORD…`, in sectors of 512 bytes.
public struct TableLine: Hashable, Sendable {
  /// The sectors of the mapped device.
  public let sectors: Range<Sector>
  /// The name of the target.
  public let target: TableWord
  /// What follows it.
  public let words: [TableWord]

  /// Reads the words of a line.
  init(_ words: [TableWord]) throws(DeviceMapperError) {
    for (index, what) in ["start", "length", "target"].enumerated() where words.count == index {
      throw DeviceMapperError(
        .table, line: words.first?.line, word: index + 1, "the \(what) is missing",
        advice: "START LENGTH TARGET WORD… is wanted")
    }
    let start = try words[0].sector("start sector")
    let length = try words[1].sector("length in sectors")
    guard length > 0 else { throw words[1].refused("a length of 0 sectors") }
    guard start + length <= UInt64(Int64.max) / 512 else {
      throw words[1].refused("start and length together are too large")
    }
    sectors = Sector(start)..<Sector(start + length)
    target = words[2]
    self.words = Array(words.dropFirst(3))
  }

  /// Start, length and target, as every line of output begins.
  var head: String { "\(sectors.lowerBound.rawValue) \(sectors.length.rawValue) \(target.text)" }

  /// Where a word would stand that is missing at the end.
  var end: TableWord {
    TableWord("", line: target.line, position: 3 + words.count + 1)
  }
}

/// A table as text says it: lines that follow each other from sector 0 on without a gap.
public struct TableDescription: Hashable, Sendable, CustomStringConvertible {
  /// The lines, in order; at least one.
  public let lines: [TableLine]

  /// Reads a table, as `dmsetup create` and `load` do: one target on a line; blank lines, and what
  /// follows a `#`, are skipped; a backslash takes the next character as it is.
  ///
  /// - Throws: what is wrong, with line and word. Whether targets and devices exist is seen when it
  ///   is loaded.
  public init(_ text: String) throws(DeviceMapperError) {
    var lines: [TableLine] = []
    var end = Sector.zero
    for words in try TableText.lines(text) {
      let line = try TableLine(words)
      guard line.sectors.lowerBound == end else {
        throw words[0].refused(
          "the line starts at sector \(line.sectors.lowerBound.rawValue)",
          advice: lines.isEmpty
            ? "the first one must start at 0"
            : "the one before ends at \(end.rawValue): lines follow each other without a gap")
      }
      end = line.sectors.upperBound
      lines.append(line)
    }
    guard !lines.isEmpty else {
      throw DeviceMapperError(
        .table, "the table is empty", advice: "give at least one line: START LENGTH TARGET WORD…")
    }
    self.lines = lines
  }

  /// The length of the device.
  public var sectorCount: Sector { lines.last?.sectors.upperBound ?? .zero }

  /// The table as text that reads as the same table.
  public var description: String {
    lines.map { line in
      let words = line.words.map { " " + TableText.quoted($0.text) }.joined()
      return
        "\(line.sectors.lowerBound.rawValue) \(line.sectors.length.rawValue)"
        + " \(TableText.quoted(line.target.text))" + words
    }.joined(separator: "\n")
  }
}
