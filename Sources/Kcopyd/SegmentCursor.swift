import BlockIO

/// Cuts a job into segments: each of sub-job size except the last one, in ascending order – or,
/// where a destination overlaps the source from above, descending as `memmove` does. A segment is
/// data or a hole, never both.
struct SegmentCursor {
  /// The order in which segments are taken.
  enum Order { case ascending, descending }

  private let segment: Sector
  private let order: Order
  /// Ascending; those in front of the rest are passed over.
  private let holes: [Range<Sector>]
  private let holeSegment: Sector
  private var nextHole = 0
  /// What hasn't been taken, counted from the start of the job.
  private(set) var rest: Range<Sector>

  /// - Parameters:
  ///   - holes: in ascending order only.
  ///   - holeSegment: the most of a hole that is taken as one.
  init(
    count: Sector, segment: Sector, order: Order = .ascending, holes: RangeSet<Sector> = .init(),
    holeSegment: Sector = Sector(.max)
  ) {
    precondition(segment > .zero && holeSegment > .zero && (order == .ascending || holes.isEmpty))
    self.segment = segment
    self.order = order
    self.holes = Array(holes.ranges)
    self.holeSegment = holeSegment
    rest = .zero..<count
  }

  /// Whether the next segment is a hole.
  var isAtHole: Bool {
    nextHole < holes.count && holes[nextHole].lowerBound <= rest.lowerBound && !rest.isEmpty
  }

  var isAtEnd: Bool { rest.isEmpty }

  /// The next segment; nil at the end. In ascending order it may be several as one.
  mutating func next(segments: UInt64 = 1) -> Range<Sector>? {
    guard !rest.isEmpty else { return nil }
    switch order {
    case .ascending:
      let end = end(of: segment * segments)
      defer {
        rest = end..<rest.upperBound
        while nextHole < holes.count, holes[nextHole].upperBound <= end { nextHole += 1 }
      }
      return rest.lowerBound..<end
    case .descending:
      // The short one first, so that the segments are the same as in ascending order.
      let odd = Sector(rest.length.rawValue % segment.rawValue)
      let start = rest.upperBound - (odd == .zero ? segment : odd)
      defer { rest = rest.lowerBound..<start }
      return start..<rest.upperBound
    }
  }

  /// Where the next segment ends, of at most `longest` if it is data.
  private func end(of longest: Sector) -> Sector {
    guard nextHole < holes.count else { return rest.lowerBound + min(longest, rest.length) }
    let hole = holes[nextHole]
    if isAtHole {
      let length = min(holeSegment, hole.upperBound - rest.lowerBound)
      return rest.lowerBound + min(length, rest.length)
    }
    let data = min(hole.lowerBound, rest.upperBound) - rest.lowerBound
    return rest.lowerBound + min(longest, data)
  }
}
