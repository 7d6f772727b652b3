import DequeModule

/// Which request goes to the server on which connection, which is sent again, and which writes a
/// flush can vouch for. Pure: the caller does what it decides.
///
/// **Sending again is safe.** A request that wasn't answered still has a caller who waits, and
/// until it is answered what it reads or leaves behind may be the old or the new bytes, as the
/// caller knows. Reading, writing, zeroing, giving up and flushing the same range a second time
/// ends in the same state as doing it once. What can't be excluded by any client: a server that
/// took a write from a connection that is lost, is slow, and does it after a later one.
///
/// **What was answered but not flushed** lives in the memory of the server, and it may have gone
/// with it. A connection vouches for the writes that were answered since it was established: as
/// long as it answers, the server that took them lives. Answers are counted; a flush is sent only
/// on a connection that is older than every answer that no flush has made durable yet. With no
/// such connection left they may be lost, whatever the server says now: a proxy, a forking server
/// or a restarted one can't be told from the same. From then on every flush fails: who else wrote
/// through this device, and relies on a flush of his own, can't be known.
struct RequestLedger {
  /// Names a request, on the wire, too: the cookie.
  typealias Number = UInt64
  /// Names a connection; never used a second time.
  typealias Connection = Int

  /// What matters of a request here.
  enum Kind: Hashable {
    /// Changes nothing.
    case query
    /// Changes the export. `durable`: for good when it is answered.
    case change(durable: Bool)
    case flush
  }

  /// What may be under way on one connection, and how often a request is tried.
  struct Bounds {
    var requests = 64
    /// Bytes of payload, either way. A single request may be larger.
    var bytes = 16 << 20
    /// A request that was under way on that many lost connections is what kills them.
    var sendings = 5
  }

  /// What is to be done next.
  enum Step: Hashable {
    case send(Number, on: Connection)
    /// A flush that nobody can vouch for.
    case refuse(Number)
  }

  private struct Entry {
    let kind: Kind
    let bytes: Int
    var sendings = 0
    /// Where it is under way.
    var connection: Connection?
    /// For a flush: how many answers it covers.
    var covered: UInt64 = 0
  }

  private struct Line {
    /// How many changes had been answered when it was established.
    let since: UInt64
    var requests: Set<Number> = []
    var bytes = 0
  }

  private let bounds: Bounds
  private var entries: [Number: Entry] = [:]
  /// In the order in which they are sent: that in which they came.
  private var waiting: Deque<Number> = []
  private var lines: [Connection: Line] = [:]
  private var lastNumber: Number = 0

  /// Changes that were answered and aren't durable by themselves.
  private var answered: UInt64 = 0
  /// How many of them a flush has made durable.
  private var durable: UInt64 = 0
  /// How many had been answered and not flushed when nobody was left to vouch for them.
  private(set) var lost: UInt64 = 0

  init(bounds: Bounds = Bounds()) { self.bounds = bounds }

  /// Whether nothing waits and nothing is under way.
  var isIdle: Bool { entries.isEmpty }

  /// Whether something is under way on a connection.
  func isBusy(_ connection: Connection) -> Bool { lines[connection]?.requests.isEmpty == false }

  /// Whether a request is under way on that connection: what may be answered.
  func isUnderWay(_ number: Number, on connection: Connection) -> Bool {
    lines[connection]?.requests.contains(number) == true
  }

  // MARK: What happens

  /// A new request, with so many bytes of payload.
  mutating func submit(_ kind: Kind, bytes: Int) -> Number {
    lastNumber += 1
    entries[lastNumber] = Entry(kind: kind, bytes: bytes)
    waiting.append(lastNumber)
    return lastNumber
  }

  /// A connection is ready for requests.
  mutating func opened(_ connection: Connection) {
    lines[connection] = Line(since: answered)
  }

  /// A request was answered and is over.
  ///
  /// - Precondition: it is under way there.
  mutating func answered(_ number: Number, on connection: Connection, success: Bool) {
    guard let entry = entries[number], isUnderWay(number, on: connection) else {
      preconditionFailure("an answer to a request that isn't under way")
    }
    entries[number] = nil
    lines[connection]?.requests.remove(number)
    lines[connection]?.bytes -= entry.bytes
    guard success else { return }
    switch entry.kind {
    case .change(durable: false): answered += 1
    case .flush: durable = max(durable, entry.covered)
    case .query, .change(durable: true): break
    }
  }

  /// A connection is gone. What was under way there is sent again, before everything that waits.
  ///
  /// - Returns: the requests that have been tried often enough and are given up.
  mutating func lost(_ connection: Connection) -> [Number] {
    guard let line = lines.removeValue(forKey: connection) else { return [] }
    var exhausted: [Number] = []
    for number in line.requests.sorted(by: >) {
      entries[number]?.connection = nil
      if let entry = entries[number], entry.sendings >= bounds.sendings {
        entries[number] = nil
        exhausted.append(number)
      } else {
        waiting.prepend(number)
      }
    }
    if answered > durable, !lines.values.contains(where: vouches) {
      lost = answered - durable
    }
    return exhausted.reversed()
  }

  /// Everything is over.
  ///
  /// - Returns: the requests that weren't answered, in the order in which they came.
  mutating func abandon() -> [Number] {
    defer {
      entries = [:]
      waiting = []
      lines = [:]
    }
    return entries.keys.sorted()
  }

  // MARK: What is done

  /// The next thing to do, if any; ask until there is none.
  mutating func next() -> Step? {
    guard let number = waiting.first, let entry = entries[number] else { return nil }
    if entry.kind == .flush, lost > 0 {
      waiting.removeFirst()
      entries[number] = nil
      return .refuse(number)
    }
    guard let connection = shortestQueue(for: entry) else { return nil }
    waiting.removeFirst()
    lines[connection]?.requests.insert(number)
    lines[connection]?.bytes += entry.bytes
    entries[number]?.connection = connection
    entries[number]?.sendings += 1
    entries[number]?.covered = answered
    return .send(number, on: connection)
  }

  private func shortestQueue(for entry: Entry) -> Connection? {
    var best: (connection: Connection, line: Line)?
    for (connection, line) in lines {
      guard entry.kind != .flush || vouches(line), hasRoom(line, for: entry) else { continue }
      if let found = best,
        (found.line.bytes, found.line.requests.count, found.connection)
          < (line.bytes, line.requests.count, connection)
      {
        continue
      }
      best = (connection, line)
    }
    return best?.connection
  }

  private func hasRoom(_ line: Line, for entry: Entry) -> Bool {
    line.requests.isEmpty
      || (line.requests.count < bounds.requests && line.bytes + entry.bytes <= bounds.bytes)
  }

  /// Whether a connection is older than every answer that isn't durable yet.
  private func vouches(_ line: Line) -> Bool { line.since <= durable || answered == durable }
}
