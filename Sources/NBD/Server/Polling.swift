import BlockIO
import NIOCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Whether a connection's next request is worth looking for before the thread sleeps.
///
/// Being woken takes longer than serving a small request, and processor time as well: most of all in
/// a virtual machine whose processor has gone idle meanwhile. A client that asks one thing at a time
/// has the next request there in less than that. Whether it is such a client is told by how long it
/// took the last time; so nobody looks in vain twice in a row.
struct Polling {
  /// How long to look; zero: never.
  let window: Duration
  /// Whether to look now: the last request came so soon.
  private(set) var isWorthwhile = false
  private var answered: LoopInstant?
  private var wasInVain = false

  /// For how long at most a thread stays with one connection that keeps asking. Everything else of
  /// the thread waits meanwhile.
  static let longestStay = Duration.microseconds(200)

  init(window: Duration) { self.window = window }

  /// Everything that came is answered.
  mutating func noteAnswer(at now: LoopInstant) { answered = now }

  /// Something has come.
  mutating func noteArrival(at now: LoopInstant) {
    guard let answered else { return }
    self.answered = nil
    // Twice: who was asleep heard of it later than it came.
    isWorthwhile = !wasInVain && answered.duration(to: now) < window * 2
    wasInVain = false
  }

  /// Nothing has come while it was looked for.
  mutating func noteVain() { wasInVain = true }

  /// Lets others have the processor, if they want it.
  static func pause() { sched_yield() }
}

// Staying with a client that asks one thing after the other.

extension Connection {
  /// Serves what comes within moments, if that is likely, with no more than the calls that move it.
  func linger() {
    polling.noteAnswer(at: loop.now)
    guard polling.isWorthwhile, mayLinger, server.network.isAlone(on: loop) else { return }
    let start = loop.now
    var quietSince = start
    while let socket, mayLinger {
      let hasReceived = receive(from: socket)
      let now = loop.now
      if hasReceived {
        quietSince = now
        polling.noteAnswer(at: quietSince)
      } else if quietSince.duration(to: now) > polling.window {
        return polling.noteVain()
      } else {
        Polling.pause()
      }
      if start.duration(to: now) > Polling.longestStay { return }
    }
  }

  /// Receives what is there and serves it.
  ///
  /// - Returns: whether there was anything.
  private func receive(from socket: DirectSocket) -> Bool {
    if let data = begun?.data, data.lasting != nil {
      // The data go where they belong, with no head before them.
      isReceiving = true
      parse()
      receivedAll()
      return begun?.data.count != data.count
    }
    guard socket.receive(into: &inbox, atMost: receiveSize.value) > 0 else { return false }
    receive(inbox)
    inbox.clear()
    receivedAll()
    return true
  }

  /// Nothing is under way, and nothing but the client is waited for.
  private var mayLinger: Bool {
    if case .transmitting = phase {
      inFlight == 0 && handedOver == 0 && !isSaturated
    } else {
      false
    }
  }
}
