/// Which bytes of a read have come. A server may send them in any order and in pieces, but each
/// byte once; what hasn't come was not read. Pure.
struct ReceivedParts {
  /// Disjoint, ascending, never adjacent; one as a rule.
  private var parts: [Range<Int>] = []

  /// Takes note of a part.
  ///
  /// - Returns: false when some of it had come before.
  mutating func add(_ part: Range<Int>) -> Bool {
    guard !part.isEmpty else { return true }
    // Most servers go upwards: the end is looked at first.
    var index = parts.endIndex
    while index > 0, parts[index - 1].lowerBound >= part.upperBound { index -= 1 }
    if index > 0, parts[index - 1].upperBound > part.lowerBound { return false }
    var merged = part
    if index < parts.endIndex, parts[index].lowerBound == part.upperBound {
      merged = merged.lowerBound..<parts.remove(at: index).upperBound
    }
    if index > 0, parts[index - 1].upperBound == part.lowerBound {
      parts[index - 1] = parts[index - 1].lowerBound..<merged.upperBound
    } else {
      parts.insert(merged, at: index)
    }
    return true
  }

  /// How many bytes have come without a gap from the first one on.
  var prefix: Int { parts.first.map { $0.lowerBound == 0 ? $0.upperBound : 0 } ?? 0 }

  /// In how many pieces they came that don't touch.
  var count: Int { parts.count }
}
