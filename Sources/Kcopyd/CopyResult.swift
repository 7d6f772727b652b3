import BlockIO

/// What became of a job. Partial failure is normal, so it is a value and not an error.
///
/// Places are sectors counted from the start of the regions, which is the same for the source and
/// every destination.
public struct CopyResult: Sendable {
  /// Why the job ended.
  public enum Ending: Hashable, Sendable {
    /// Everything was tried.
    case finished
    /// An error ended it early.
    case stoppedByError
    /// It was cancelled.
    case cancelled
  }

  /// One destination's part.
  public struct Destination: Sendable {
    /// Sectors that weren't written, for whatever reason. They may hold old or new data where a
    /// write failed, and old ones where none was tried.
    public internal(set) var missing = RangeSet<Sector>()
    /// The writes that failed.
    public internal(set) var failures = FailureLog()
    /// Whether writes weren't issued because the job had failed before: the kernel's "all ones".
    public internal(set) var wasAbandoned = false

    var isFine: Bool { missing.isEmpty && failures.isEmpty && !wasAbandoned }
  }

  /// The length of the job.
  public let count: Sector
  /// How many destinations it had.
  public let destinationCount: Int
  /// Why it ended.
  public let ending: Ending
  /// nil when everything is as it should be: a result of a small job costs nothing then.
  private let trouble: Trouble?

  /// A class, so that a result is small and quickly passed on.
  private final class Trouble: Sendable {
    let readFailures: FailureLog
    let destinations: [Destination]

    init(readFailures: FailureLog, destinations: [Destination]) {
      self.readFailures = readFailures
      self.destinations = destinations
    }
  }

  /// The result of a job without any failure.
  init(count: Sector, destinationCount: Int) {
    self.count = count
    self.destinationCount = destinationCount
    ending = .finished
    trouble = nil
  }

  init(
    count: Sector, ending: Ending, readFailures: FailureLog, destinations: [Destination]
  ) {
    self.count = count
    self.ending = ending
    destinationCount = destinations.count
    let isFine = readFailures.isEmpty && destinations.allSatisfy(\.isFine)
    trouble = isFine ? nil : Trouble(readFailures: readFailures, destinations: destinations)
  }

  /// The reads that failed.
  public var readFailures: FailureLog { trouble?.readFailures ?? FailureLog() }
  /// The destinations, in the order in which they were given.
  public var destinations: [Destination] {
    trouble?.destinations ?? Array(repeating: Destination(), count: destinationCount)
  }

  /// The kernel's `read_err`: whether any read failed.
  public var readError: Bool { trouble?.readFailures.isEmpty == false }

  /// The kernel's `write_err`: bit i is set when a write to destination i failed; all ones when
  /// writes of the job weren't issued at all.
  public var writeErrors: UInt64 {
    guard let destinations = trouble?.destinations else { return 0 }
    if destinations.contains(where: \.wasAbandoned) { return .max }
    return destinations.indices.reduce(0) {
      destinations[$1].failures.isEmpty ? $0 : $0 | 1 << UInt64($1)
    }
  }

  /// Whether every destination holds everything, and everything could be read.
  public var isComplete: Bool { trouble == nil }

  /// What destination `index` has got.
  public func written(_ index: Int) -> RangeSet<Sector> {
    var written = RangeSet<Sector>()
    written.insert(.zero..<count)
    written.subtract(destinations[index].missing)
    return written
  }
}

/// The failures of one side of a job: exactly where, and why for the first of them.
public struct FailureLog: Sendable {
  /// The most reasons that are kept.
  public static let maximumReasons = 256

  /// A failure and where it was, in sectors from the start of the region.
  public struct Entry: Sendable {
    /// Where.
    public var sectors: Range<Sector>
    /// What, with the device's own sectors.
    public var failure: IOFailure
  }

  /// All sectors that failed.
  public private(set) var sectors = RangeSet<Sector>()
  /// The reasons, adjacent ones of the same kind in one; the first 256 of them.
  public private(set) var entries: [Entry] = []
  /// How many failures there were beyond those.
  public private(set) var omitted = 0

  /// Whether nothing failed.
  public var isEmpty: Bool { sectors.isEmpty }

  mutating func add(_ failure: IOFailure, at sectors: Range<Sector>) {
    guard !sectors.isEmpty else { return }
    self.sectors.insert(sectors)
    if let index = entries.lastIndex(where: { $0.continues(with: failure, at: sectors) }) {
      entries[index].join(failure, at: sectors)
    } else if entries.count < Self.maximumReasons {
      entries.append(Entry(sectors: sectors, failure: failure))
    } else {
      omitted += 1
    }
  }
}

extension FailureLog.Entry {
  fileprivate func continues(with other: IOFailure, at sectors: Range<Sector>) -> Bool {
    self.sectors.upperBound == sectors.lowerBound && failure.operation == other.operation
      && failure.errno == other.errno && failure.detail == other.detail
      && failure.sectors?.upperBound == other.sectors?.lowerBound
  }

  fileprivate mutating func join(_ other: IOFailure, at sectors: Range<Sector>) {
    self.sectors = self.sectors.lowerBound..<sectors.upperBound
    if let first = failure.sectors, let last = other.sectors {
      failure = failure.at(first.lowerBound..<last.upperBound)
    }
  }
}
