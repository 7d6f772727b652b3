import BlockIOTesting
import Testing

@testable import NBD

/// What keeps the account of requests; that of the client, and some that can't be relied on.
private protocol Accounting {
  mutating func submit(_ kind: RequestLedger.Kind, bytes: Int) -> UInt64
  mutating func opened(_ connection: Int)
  mutating func answered(_ number: UInt64, on connection: Int, success: Bool)
  mutating func lost(_ connection: Int) -> [UInt64]
  mutating func next() -> RequestLedger.Step?
}

extension RequestLedger: Accounting {}

/// Doesn't send again what was under way on a lost connection.
private struct Forgetful: Accounting {
  var ledger = RequestLedger(bounds: .init(sendings: 100))
  var sent: Set<UInt64> = []

  mutating func submit(_ kind: RequestLedger.Kind, bytes: Int) -> UInt64 {
    ledger.submit(kind, bytes: bytes)
  }
  mutating func opened(_ connection: Int) { ledger.opened(connection) }
  mutating func answered(_ number: UInt64, on connection: Int, success: Bool) {
    ledger.answered(number, on: connection, success: success)
  }
  mutating func lost(_ connection: Int) -> [UInt64] { ledger.lost(connection) }
  mutating func next() -> RequestLedger.Step? {
    while let step = ledger.next() {
      if case .send(let number, _) = step, !sent.insert(number).inserted { continue }
      return step
    }
    return nil
  }
}

/// Believes a flush of whatever server it reaches.
private struct Trusting: Accounting {
  var ledger = RequestLedger(bounds: .init(sendings: 100))
  var connections: [Int] = []
  var own: Set<UInt64> = []

  mutating func submit(_ kind: RequestLedger.Kind, bytes: Int) -> UInt64 {
    ledger.submit(kind, bytes: bytes)
  }
  mutating func opened(_ connection: Int) {
    ledger.opened(connection)
    connections.append(connection)
  }
  mutating func answered(_ number: UInt64, on connection: Int, success: Bool) {
    guard own.remove(number) == nil else { return }
    ledger.answered(number, on: connection, success: success)
  }
  mutating func lost(_ connection: Int) -> [UInt64] {
    connections.removeAll { $0 == connection }
    return ledger.lost(connection)
  }
  mutating func next() -> RequestLedger.Step? {
    guard case .refuse(let number)? = ledger.next() else { return ledger.next() }
    guard let connection = connections.first else { return .refuse(number) }
    own.insert(number)
    return .send(number, on: connection)
  }
}

/// A server with a volatile cache that is killed now and then, connections that break, and a client
/// that must not promise too much, nor forget anything.
private struct LedgerSimulation<Ledger: Accounting> {
  private var ledger: Ledger
  private var random: SeededRandom

  // The server.
  private var cached: Set<UInt64> = []
  private var durable: Set<UInt64> = []
  private var sent: [Int: [UInt64]] = [:]
  private var lastConnection = 0

  // The caller.
  private var kinds: [UInt64: RequestLedger.Kind] = [:]
  private var open: Set<UInt64> = []
  /// Changes that the caller knows to be done; of a flush those it has to cover.
  private var done: Set<UInt64> = []
  private var covered: [UInt64: Set<UInt64>] = [:]

  init(_ ledger: Ledger, _ random: SeededRandom) {
    self.ledger = ledger
    self.random = random
  }

  mutating func run() throws(CheckFailure) {
    for _ in 0..<random.below(120) {
      switch random.below(12) {
      case 0...3: submit()
      case 4: connect()
      case 5...9: try answerOne()
      case 10: lose(random.one(of: Array(sent.keys.sorted()) + [0]))
      default: if random.chance(1, in: 3) { kill() }
      }
      try pump()
    }
    // All is well from now on.
    connect()
    try pump()
    while try answerOne() { try pump() }
    try ensure(open.isEmpty, "\(open.count) requests are never answered")
  }

  private mutating func submit() {
    let kind = random.one(of: [
      RequestLedger.Kind.query, .change(durable: false), .change(durable: false),
      .change(durable: true), .flush,
    ])
    let number = ledger.submit(kind, bytes: 512)
    kinds[number] = kind
    open.insert(number)
    if kind == .flush { covered[number] = done }
  }

  private mutating func connect() {
    guard sent.count < 3 else { return }
    lastConnection += 1
    sent[lastConnection] = []
    ledger.opened(lastConnection)
  }

  private mutating func pump() throws(CheckFailure) {
    while let step = ledger.next() {
      switch step {
      case .refuse(let number):
        try ensure(kinds[number] == .flush, "something else than a flush is refused")
        open.remove(number)
      case .send(let number, let connection):
        try ensure(sent[connection] != nil, "sent on a connection that isn't there")
        sent[connection]?.append(number)
      }
    }
  }

  private mutating func work(_ number: UInt64) {
    switch kinds[number] {
    case .change(durable: true): durable.insert(number)
    case .change(durable: false): cached.insert(number)
    case .flush: durable.formUnion(cached)
    case .query, nil: break
    }
  }

  /// Does any of the requests that are under way, and answers it.
  @discardableResult
  private mutating func answerOne() throws(CheckFailure) -> Bool {
    let busy = sent.filter { !$0.value.isEmpty }.keys.sorted()
    guard !busy.isEmpty else { return false }
    let connection = random.one(of: busy)
    guard let requests = sent[connection] else { return false }
    let number = random.one(of: requests)
    sent[connection]?.removeAll { $0 == number }
    work(number)
    ledger.answered(number, on: connection, success: true)
    try ensure(open.remove(number) != nil, "answered twice")
    switch kinds[number] {
    case .change:
      done.insert(number)
      if kinds[number] == .change(durable: true) {
        try ensure(durable.contains(number), "a durable change that isn't")
      }
    case .flush:
      let missing = covered[number, default: []].subtracting(durable)
      try ensure(missing.isEmpty, "a flush went well, and \(missing.count) changes are lost")
    case .query, nil: break
    }
    return true
  }

  /// Some of what was under way is done, and nobody hears of it.
  private mutating func lose(_ connection: Int) {
    guard let requests = sent.removeValue(forKey: connection) else { return }
    for number in requests where random.chance(1, in: 2) { work(number) }
    open.subtract(ledger.lost(connection))
  }

  private mutating func kill() {
    for connection in sent.keys.sorted() { lose(connection) }
    cached = []
  }
}

@Suite struct LedgerSimulationTests {
  private func run(_ makeLedger: () -> some Accounting) throws {
    try forEachSeed(300) { seed in
      var simulation = LedgerSimulation(makeLedger(), SeededRandom(seed: seed))
      try simulation.run()
    }
  }

  @Test func `nothing is forgotten, and no flush promises too much`() throws {
    try run { RequestLedger(bounds: .init(sendings: 100)) }
    try run { RequestLedger(bounds: .init(requests: 2, sendings: 3)) }
  }

  @Test func `a client that doesn't send again is found`() {
    #expect(throws: SeedFailure.self) { try run { Forgetful() } }
  }

  @Test func `a client that believes any flush is found`() {
    #expect(throws: SeedFailure.self) { try run { Trusting() } }
  }
}
