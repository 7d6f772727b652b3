import BlockIO
import Synchronization

/// How far a job is, readable from any thread while it runs.
public final class CopyProgress: Sendable {
  /// One destination's part, in bytes.
  public struct Destination: Hashable, Sendable {
    /// What it holds of the copy, if not durably.
    public var written: UInt64 = 0
    /// The part of it that is zeros which weren't sent: zeroed by command, or zero already.
    public var zeroed: UInt64 = 0
    /// The part of it that was read there and found to be the same.
    public var equal: UInt64 = 0
    /// Known to be on stable storage.
    public var durable: UInt64 = 0
    /// Whether a write has failed.
    public var hasFailed = false

    /// Nothing done yet.
    public init() {}
  }

  /// A moment of a job.
  public struct Snapshot: Hashable, Sendable {
    /// Bytes read, holes counted as such; of a zeroing job none.
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

  /// Notes that a destination holds that much by another way than a job: a clone.
  public func markPresent(_ sectors: Sector, destination: Int) {
    addWritten(sectors, destination: destination)
  }

  func addRead(_ sectors: Sector) { state.withLock { $0.read += sectors.bytes } }

  func addWritten(_ sectors: Sector, destination: Int) {
    state.withLock { $0.destinations[destination].written += sectors.bytes }
  }

  /// As above; of these `zeroed` weren't sent because they are zeros, and `equal` because they are
  /// there already.
  func addWritten(_ sectors: Sector, zeroed: Sector, equal: Sector = .zero, destination: Int) {
    state.withLock { state in
      state.destinations[destination].written += sectors.bytes
      state.destinations[destination].zeroed += zeroed.bytes
      state.destinations[destination].equal += equal.bytes
    }
  }

  func markFailed(destination: Int) {
    state.withLock { $0.destinations[destination].hasFailed = true }
  }
}
