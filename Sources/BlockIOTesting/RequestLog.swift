import BlockIO

/// A request as a ``SimulatedDisk`` saw it.
public struct LoggedRequest: Sendable, Hashable, CustomStringConvertible {
  /// The how many-th request of the disk it is, from 0 on.
  public let number: Int
  /// What was asked for: `read`, `write`, `writeZeroes`, `discard`, `flush` or `blockStatus`.
  public let operation: IOFailure.Operation
  /// Where; nil for a flush.
  public let sectors: Range<Sector>?
  /// Whether the write was to be durable by itself.
  public let isDurable: Bool
  /// When it was issued.
  public let start: LoopInstant
  /// When it ended; nil while it is under way.
  public internal(set) var end: LoopInstant?
  /// How it failed, if it did.
  public internal(set) var failure: IOFailure?

  /// One line.
  public var description: String {
    let place = sectors.map { " \($0.label)" } ?? ""
    let times = "\(start.nanoseconds)–\(end.map { String($0.nanoseconds) } ?? "") ns"
    return "\(operation)\(isDurable ? " durably" : "")\(place) \(times)"
      + (failure.map { ": \($0.reason)" } ?? "")
  }
}

extension [LoggedRequest] {
  /// The requests of one kind.
  public func of(_ operation: IOFailure.Operation) -> [LoggedRequest] {
    filter { $0.operation == operation }
  }

  /// The most requests that were under way at the same time. One that ends in the nanosecond in
  /// which another starts isn't at the same time.
  public var maximumInFlight: Int {
    var changes: [(time: Int64, change: Int)] = []
    for request in self {
      changes.append((request.start.nanoseconds, 1))
      if let end = request.end { changes.append((end.nanoseconds, -1)) }
    }
    changes.sort { ($0.time, $0.change) < ($1.time, $1.change) }
    var inFlight = 0
    var maximum = 0
    for (_, change) in changes {
      inFlight += change
      maximum = Swift.max(maximum, inFlight)
    }
    return maximum
  }

  /// All sectors that were touched.
  public var sectors: RangeSet<Sector> {
    reduce(into: RangeSet()) { set, request in
      if let sectors = request.sectors { set.insert(sectors) }
    }
  }

  /// Whether each request starts at or behind the end of the one issued before it.
  public var isAscending: Bool {
    let ranges = compactMap(\.sectors)
    return zip(ranges, ranges.dropFirst()).allSatisfy { $0.upperBound <= $1.lowerBound }
  }
}
