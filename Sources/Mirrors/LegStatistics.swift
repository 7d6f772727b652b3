public import BlockIO

/// What has been done with a leg since its mirror was made, and is being done.
public struct LegStatistics: Hashable, Sendable {
  /// The kinds of requests that are told apart.
  public enum Kind: String, CaseIterable, Sendable {
    /// Reads for users.
    case read
    /// Writes for users.
    case write
    /// Discards.
    case discard
    /// Flushes, for users and for the log.
    case flush
    /// Copying from it, to bring other legs into sync or to mend them.
    case copyFrom = "copy_from"
    /// Copying to it.
    case copyTo = "copy_to"
  }

  /// Requests under way.
  public internal(set) var inFlight = 0
  private var reads = RequestCount()
  private var writes = RequestCount()
  private var discards = RequestCount()
  private var flushes = RequestCount()
  private var copiesFrom = RequestCount()
  private var copiesTo = RequestCount()

  /// Requests of a kind that have ended.
  public internal(set) subscript(kind: Kind) -> RequestCount {
    get {
      switch kind {
      case .read: reads
      case .write: writes
      case .discard: discards
      case .flush: flushes
      case .copyFrom: copiesFrom
      case .copyTo: copiesTo
      }
    }
    _modify {
      switch kind {
      case .read: yield &reads
      case .write: yield &writes
      case .discard: yield &discards
      case .flush: yield &flushes
      case .copyFrom: yield &copiesFrom
      case .copyTo: yield &copiesTo
      }
    }
  }
}

/// A request to a leg that is under way.
struct LegRequest: Sendable {
  let leg: Int
  let kind: LegStatistics.Kind
  let bytes: UInt64
  let start: LoopInstant
}

extension Mirror {
  /// Counts a request to a leg; every one must be given to ``end(_:isDone:)``.
  func begin(
    _ kind: LegStatistics.Kind, _ leg: Int, _ sectors: Range<Sector>
  ) -> LegRequest {
    legs[leg].statistics.inFlight += 1
    return LegRequest(leg: leg, kind: kind, bytes: sectors.length.bytes, start: loop.now)
  }

  /// It is over.
  func end(_ request: LegRequest, isDone: Bool) {
    let leg = legs[request.leg]
    leg.statistics.inFlight -= 1
    leg.statistics[request.kind].note(
      bytes: request.bytes, nanoseconds: request.start.nanoseconds(to: loop.now), isDone: isDone)
  }

  /// Counts a request that was done within one step, from `start`, which becomes the time of its end.
  func note(
    _ kind: LegStatistics.Kind, _ leg: Leg, _ sectors: Range<Sector>,
    since start: inout LoopInstant, isDone: Bool
  ) {
    let end = loop.now
    leg.statistics[kind].note(
      bytes: sectors.length.bytes, nanoseconds: start.nanoseconds(to: end), isDone: isDone)
    start = end
  }

  /// What has been done with each leg.
  var legStatistics: [LegStatistics] { legs.map(\.statistics) }

  /// Does something with sectors of a leg, counted, in a task that runs on the loop.
  nonisolated func counted(
    _ kind: LegStatistics.Kind, _ index: Int, _ sectors: Range<Sector>,
    _ body: (any BlockDevice, Range<Sector>) async throws(IOFailure) -> Void
  ) async -> IOFailure? {
    let request = beginHere(kind, index, sectors)
    let place = places[index]
    do throws(IOFailure) {
      try await body(place.device, sectors.shifted(by: place.offset))
      endHere(request, isDone: true)
      return nil
    } catch {
      endHere(request, isDone: false)
      return error
    }
  }

  private nonisolated func beginHere(
    _ kind: LegStatistics.Kind, _ leg: Int, _ sectors: Range<Sector>
  ) -> LegRequest {
    assumeIsolated { $0.begin(kind, leg, sectors) }
  }

  private nonisolated func endHere(_ request: LegRequest, isDone: Bool) {
    assumeIsolated { $0.end(request, isDone: isDone) }
  }
}
