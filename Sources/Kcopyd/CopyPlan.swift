import BlockIO

/// A job that has been found to make sense: its regions, and how they are to be treated. Pure.
struct CopyPlan: Sendable {
  /// nil: the destinations are zeroed.
  let source: IORegion?
  let destinations: [IORegion]
  let count: Sector
  let options: CopyOptions
  /// nil: nothing is known of it, and everything is written.
  let content: CopyContent?
  /// The order that keeps an overlapping source intact until it has been read.
  let order: SegmentCursor.Order
  /// Whether source and a destination overlap, so that segments must not overtake each other.
  let sourceOverlaps: Bool

  /// Destinations with a count of 0 are ignored and keep their index.
  var activeDestinations: [Int] { destinations.indices.filter { destinations[$0].count > .zero } }

  /// Whether there is nothing to do but to notify.
  var isEmpty: Bool { count == .zero || activeDestinations.isEmpty }

  init(
    source: IORegion?, destinations: [IORegion], options: CopyOptions,
    content: CopyContent? = nil
  ) throws(KcopydError) {
    guard !destinations.isEmpty else { throw .noDestinations }
    guard destinations.count <= KcopydClient.maximumDestinations else {
      throw .tooManyDestinations(destinations.count)
    }
    let count = source?.count ?? destinations.map(\.count).max() ?? .zero
    if let source, !source.isAddressable { throw .unaddressable(destination: nil) }
    for (index, destination) in destinations.enumerated() {
      guard destination.count == count || destination.count == .zero else {
        // An empty source is an empty job, whatever the destinations say.
        if count == .zero { continue }
        throw .unequalCounts(destination: index)
      }
      guard destination.isAddressable else { throw .unaddressable(destination: index) }
    }
    // Nothing of an empty job can overlap, and its destinations may be anywhere.
    if count > .zero { try Self.refuseOverlaps(destinations) }
    self.source = source
    self.destinations = destinations
    self.count = count
    (order, sourceOverlaps) = try Self.order(source, destinations)
    // What a zoned device can't take out of order, it mustn't be given out of order.
    var options = options
    if destinations.contains(where: { $0.count > .zero && $0.device.limits.isZoned }) {
      options.insert(.sequentialWrites)
    }
    if options.contains(.sequentialWrites) { options.remove(.ignoreErrors) }
    self.options = options
    let overlaps = sourceOverlaps
    self.content = content.map { content in
      var content = content
      // Where segments must not overtake each other a hole is data like any other, and "blank" ends
      // with the first write.
      if overlaps { (content.holes, content.blankDestinations) = (RangeSet(), []) }
      return content
    }
    if order == .descending && options.contains(.sequentialWrites) {
      throw .sequentialWritesOverlap
    }
  }

  private static func refuseOverlaps(_ destinations: [IORegion]) throws(KcopydError) {
    for (index, destination) in destinations.enumerated() {
      for other in destinations.indices.dropFirst(index + 1)
      where destination.overlaps(destinations[other]) {
        throw .destinationsOverlap(index, other)
      }
    }
  }

  private static func order(
    _ source: IORegion?, _ destinations: [IORegion]
  ) throws(KcopydError) -> (SegmentCursor.Order, Bool) {
    guard let source, source.count > .zero else { return (.ascending, false) }
    let overlapping = destinations.filter { source.overlaps($0) }
    // Each has a page cache of its own, and which sector is which one isn't known here.
    if let index = destinations.firstIndex(where: {
      $0.device.identity != source.device.identity && source.overlaps($0)
    }) {
      throw .sourceLiesOnDestination(index)
    }
    let isBelow = overlapping.contains { $0.sector <= source.sector }
    let isAbove = overlapping.contains { $0.sector > source.sector }
    if isBelow && isAbove { throw .sourceOverlapsBothWays }
    return (isAbove ? .descending : .ascending, !overlapping.isEmpty)
  }
}

extension IORegion {
  var isAddressable: Bool {
    let (end, overflow) = sector.rawValue.addingReportingOverflow(count.rawValue)
    return !overflow && !Sector(end).bytesOverflow
  }

  /// The sectors of a piece of the job.
  func sectors(of segment: Range<Sector>) -> Range<Sector> { segment.shifted(by: sector) }
}
