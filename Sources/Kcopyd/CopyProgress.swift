import BlockIO
import Synchronization

/// How far a job is, readable from any thread while it runs.
public final class CopyProgress: Sendable {
  /// One destination's part, in bytes.
  public struct Destination: Hashable, Sendable {
    /// Written, if not durably.
    public var written: UInt64 = 0
    /// Known to be on stable storage.
    public var durable: UInt64 = 0
    /// Whether a write has failed.
    public var hasFailed = false

    /// Nothing done yet.
    public init() {}
  }

  /// A moment of a job.
  public struct Snapshot: Hashable, Sendable {
    /// Bytes read; of a zeroing job none.
    public var read: UInt64 = 0
    /// The destinations, in the order in which they were given.
    public var destinations: [Destination]

    /// Nothing done yet.
    public init(destinations: Int) {
      self.destinations = Array(repeating: Destination(), count: destinations)
    }
  }

  private let state: Mutex<Snapshot>

  /// The progress of a job – or of several in a row – to that many destinations.
  public init(destinations: Int) {
    state = Mutex(Snapshot(destinations: destinations))
  }

  /// How far it is now.
  public var snapshot: Snapshot { state.withLock { $0 } }

  /// Notes that the first `bytes` which were counted as written are durable. The engine never
  /// flushes by itself: whoever flushes calls this.
  public func markDurable(_ bytes: UInt64, destination: Int) {
    state.withLock { state in
      state.destinations[destination].durable =
        max(state.destinations[destination].durable, bytes)
    }
  }

  func addRead(_ sectors: Sector) { state.withLock { $0.read += sectors.bytes } }

  func addWritten(_ sectors: Sector, destination: Int) {
    state.withLock { $0.destinations[destination].written += sectors.bytes }
  }

  func markFailed(destination: Int) {
    state.withLock { $0.destinations[destination].hasFailed = true }
  }
}
