public import BlockIO

/// What is known of the content of a copy, and what is made of it.
///
/// Places are sectors counted from the start of the regions. A value for a part of a copy is made
/// by ``part(_:)``.
public struct CopyContent: Sendable {
  /// Sectors of the source that are known to read as zeros. They aren't read; destinations get
  /// zeros there by command, unless they are blank.
  public var holes = RangeSet<Sector>()

  /// Destinations, by index, of which the whole region reads as zeros when the copy begins: files
  /// made for it. Zeros aren't written there. A destination that isn't named here gets every zero
  /// of the source.
  public var blankDestinations: Set<Int> = []

  /// Whether runs of zeros found in data are treated like holes, and how long they must be: what
  /// is shorter is written like any data, because a command costs more. nil: they aren't looked
  /// for. At blank destinations every zero block of at least 4 KiB is left out.
  public var shortestZeroRun: Sector?

  /// Whether destinations may give the space of zeros back.
  public var mayUnmap = true

  /// Whether destinations are read first, and only what differs is written, in whole blocks.
  /// Sectors that can't be read there are written.
  public var differencesOnly = false

  /// Who sees what is copied, while it is being written.
  public var observer: (any CopyObserver)?

  /// Nothing known, and everything written.
  public init() {}

  /// The same of the part `sectors` of a copy, counted from its start.
  public func part(_ sectors: Range<Sector>) -> CopyContent {
    var part = self
    let holes = holes.intersection(RangeSet(sectors)).ranges
    part.holes = RangeSet(
      holes.map { $0.lowerBound - sectors.lowerBound..<$0.upperBound - sectors.lowerBound })
    return part
  }
}

/// Sees the content of a copy once, strictly in ascending order and without gaps: to hash it, as a
/// rule.
///
/// It sees what the destinations get – zeros where sectors can't be read and errors are ignored –
/// and nothing behind the first segment that isn't written because it couldn't be read. The copy
/// of a segment isn't over before its observer is done with it; so what takes long holds the copy
/// up when its pages are used up, and should be done on another thread.
public protocol CopyObserver: Sendable {
  /// The next segment of the source, counted from its start; `data` is valid until this returns,
  /// and nil where the segment is a hole.
  func observe(_ segment: Range<Sector>, _ data: IOBuffer?) async
}
