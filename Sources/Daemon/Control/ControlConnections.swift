import NIOCore
import Synchronization

/// What clients of the control socket may take.
struct ControlLimits: Sendable {
  /// The most connections. One more takes the place of the one that has been without a request for
  /// longest; when none is, it is refused.
  var connections = 64
  /// Of them the most that wait – for an event, or the end of something long – so that verbs are
  /// always taken.
  var waiting = 48
  /// How long a client may take to read a line that it is sent.
  var patience = TimeAmount.seconds(30)
  /// The longest line that it is sent, in bytes.
  var longestReply = ControlLine.maximumReply
}

/// The connections to the control socket that count against the limits.
final class ControlConnections: Sendable {
  /// What a connection does.
  private enum Activity: Equatable {
    /// Nothing, since that moment.
    case idle(since: UInt64)
    case waiting
    case working
  }

  private struct Entry {
    let channel: any Channel
    var activity: Activity
  }

  private struct State {
    var entries: [UInt64: Entry] = [:]
    /// Counts what happens.
    var moment: UInt64 = 0

    mutating func next() -> UInt64 {
      moment += 1
      return moment
    }

    /// The one that has been without a request for longest.
    var idlest: UInt64? {
      entries.compactMap { number, entry in
        if case .idle(let since) = entry.activity { (since, number) } else { nil }
      }.min { $0.0 < $1.0 }?.1
    }
  }

  private let limits: ControlLimits
  private let state = Mutex(State())

  init(_ limits: ControlLimits) { self.limits = limits }

  /// Takes a connection in.
  ///
  /// - Returns: its number; nil: all others are at work.
  func enter(_ channel: any Channel) -> UInt64? {
    let (number, evicted) = state.withLock { state -> (UInt64?, (any Channel)?) in
      var evicted: (any Channel)?
      if state.entries.count >= limits.connections {
        guard let idlest = state.idlest else { return (nil, nil) }
        evicted = state.entries.removeValue(forKey: idlest)?.channel
      }
      let number = state.next()
      state.entries[number] = Entry(channel: channel, activity: .idle(since: number))
      return (number, evicted)
    }
    evicted?.close(promise: nil)
    return number
  }

  /// Its end.
  func leave(_ number: UInt64) {
    state.withLock { _ = $0.entries.removeValue(forKey: number) }
  }

  /// What becomes of a request that has come.
  enum Admission { case taken, tooManyWait, gone }

  /// Begins a request; ``end(_:)`` ends it when it was taken.
  func begin(_ number: UInt64, isWaiting: Bool) -> Admission {
    state.withLock { state in
      // Another one may have taken its place just now.
      guard state.entries[number] != nil else { return .gone }
      if isWaiting, state.entries.values.count(where: { $0.activity == .waiting }) >= limits.waiting
      {
        return .tooManyWait
      }
      state.entries[number]?.activity = isWaiting ? .waiting : .working
      return .taken
    }
  }

  func end(_ number: UInt64) {
    state.withLock { state in
      let now = state.next()
      state.entries[number]?.activity = .idle(since: now)
    }
  }
}
