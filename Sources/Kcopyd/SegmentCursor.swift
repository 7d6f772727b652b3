import BlockIO

/// Cuts a job into segments: each of sub-job size except the last one, in ascending order – or,
/// where a destination overlaps the source from above, descending as `memmove` does.
struct SegmentCursor {
  /// The order in which segments are taken.
  enum Order { case ascending, descending }

  private let segment: Sector
  private let order: Order
  /// What hasn't been taken, counted from the start of the job.
  private(set) var rest: Range<Sector>

  init(count: Sector, segment: Sector, order: Order = .ascending) {
    precondition(segment > .zero)
    self.segment = segment
    self.order = order
    rest = .zero..<count
  }

  var isAtEnd: Bool { rest.isEmpty }

  /// The next segment; nil at the end. In ascending order it may be several as one.
  mutating func next(segments: UInt64 = 1) -> Range<Sector>? {
    guard !rest.isEmpty else { return nil }
    switch order {
    case .ascending:
      let end = rest.lowerBound + min(segment * segments, rest.length)
      defer { rest = end..<rest.upperBound }
      return rest.lowerBound..<end
    case .descending:
      // The short one first, so that the segments are the same as in ascending order.
      let odd = Sector(rest.length.rawValue % segment.rawValue)
      let start = rest.upperBound - (odd == .zero ? segment : odd)
      defer { rest = rest.lowerBound..<start }
      return start..<rest.upperBound
    }
  }
}
