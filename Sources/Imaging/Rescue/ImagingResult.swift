public import BlockIO

/// What became of a copy with a map, or of a rescue. Places are sectors of the source device.
public struct ImagingResult: Sendable {
  /// Why it ended.
  public enum Ending: Hashable, Sendable {
    /// Everything was tried.
    case finished
    /// A read error ended it: it wasn't a rescue.
    case readError
    /// More read errors than were allowed.
    case tooManyErrors
    /// Nothing could be read for as long as was allowed.
    case timeout
    /// No destination is left.
    case noDestination
    /// It was cancelled.
    case cancelled
  }

  /// One destination's part.
  public struct Destination: Sendable {
    /// What it holds.
    public var written: RangeSet<Sector>
    /// What of that is known to be on stable storage.
    public var durable: RangeSet<Sector>
    /// What has been written in place of what couldn't be read.
    public var filled: RangeSet<Sector>
    /// Why it was left alone.
    public var failure: IOFailure?
  }

  /// Why it ended.
  public internal(set) var ending: Ending
  /// The part of the source that was wanted.
  public let region: Range<Sector>
  /// What is known of each sector of the source; finished is what has been read, now or before.
  public let map: StatusMap
  /// The destinations, in the order in which they were given.
  public let destinations: [Destination]
  /// How many reads failed.
  public let readErrors: Int
  /// The first of them.
  public let readFailures: [IOFailure]
  /// Why the map couldn't be written the last time. What it says is true, but less than there is.
  public let mapFailure: IOFailure?
  /// How many sectors every destination had at the beginning.
  public let finishedBefore: Sector

  /// What was tried and couldn't be read.
  public var lost: RangeSet<Sector> {
    map.sectors([.badSector, .nonScraped, .nonTrimmed], in: region)
  }

  /// What destination `index` lacks.
  public func missing(_ index: Int) -> RangeSet<Sector> {
    var all = RangeSet<Sector>()
    all.insert(region)
    return all.subtracting(destinations[index].written)
  }

  /// Whether every destination holds everything, durably, and the map says so.
  public var isComplete: Bool {
    ending == .finished && mapFailure == nil
      && destinations.indices.allSatisfy {
        destinations[$0].failure == nil && missing($0).isEmpty
      }
  }
}

/// A moment of a job, for people who watch it.
public struct ImagingSnapshot: Sendable {
  /// Bytes of the region by their status.
  public var bytes: [BlockStatus: UInt64] = [:]
  /// How many separate runs of bad sectors there are.
  public var badAreas = 0
  /// What is being done.
  public var phase = RescuePhase.copying
  /// The pass of the phase.
  public var pass = 1
  /// Whether that goes forwards.
  public var isForward = true
  /// Where it is, in sectors of the source.
  public var position = Sector.zero
  /// How many reads failed.
  public var readErrors = 0
  /// How long ago something could be read.
  public var sinceGoodRead = Duration.zero
  /// By destination: bytes written, bytes durable, whether it has failed.
  public var destinations: [(written: UInt64, durable: UInt64, hasFailed: Bool)] = []
  /// Whether the last attempt to write the map failed.
  public var mapHasFailed = false

  /// Nothing yet.
  public init() {}
}
