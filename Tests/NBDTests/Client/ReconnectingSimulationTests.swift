import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// A server with a volatile cache that is killed and comes back, connections that break, answers
/// that get lost, and a session that must neither forget a request nor promise too much.
private struct ReconnectingSimulation {
  private enum Kind { case read, write, durableWrite, flush }

  private let network = VirtualNetwork()
  private let caller: Caller
  private var random: SeededRandom
  private var kinds: [Int: Kind] = [:]
  /// Each write has a sector of its own.
  private var sectors: [UInt64: Int] = [:]
  /// What each flush has to cover: the writes that had been answered when it was asked for.
  private var covered: [Int: Set<UInt64>] = [:]

  // The server's storage, by sector.
  private var cached: Set<UInt64> = []
  private var durable: Set<UInt64> = []

  init(seed: UInt64) throws {
    random = SeededRandom(seed: seed)
    caller = try Caller(network.open(several: random.chance(1, in: 2)))
  }

  mutating func run() throws {
    for _ in 0..<random.below(150) {
      switch random.below(16) {
      case 0...5: submit()
      case 6...11: try answerOne()
      case 12:
        if let connection = network.connections.first { breakOne(connection) }
      case 13:
        network.kill()
        cached = []
      case 14: network.isUp = true
      default: network.wait(random.duration(in: .zero ... .seconds(8)))
      }
      network.settle()
      try check()
    }
    // All is well from now on.
    network.isUp = true
    for _ in 0..<kinds.count + 20 {
      network.wait(.seconds(2))
      while try answerOne() { try check() }
    }
    try ensure(
      caller.answers.count == kinds.count,
      "\(kinds.count - caller.answers.count) of \(kinds.count) requests are never answered")
  }

  private mutating func submit() {
    let sector = UInt64(kinds.count)
    let kind = random.one(of: [Kind.read, .write, .write, .durableWrite, .flush])
    let done = Set(sectors.filter { caller.isDone($0.value) }.keys)
    let number =
      switch kind {
      case .read: caller.read(sector)
      case .write: caller.write(sector)
      case .durableWrite: caller.write(sector, durable: true)
      case .flush: caller.flush()
      }
    kinds[number] = kind
    switch kind {
    case .write, .durableWrite: sectors[sector] = number
    case .flush: covered[number] = done
    case .read: break
    }
  }

  private mutating func work(_ request: RequestHeader) {
    switch request.command {
    case .write where request.flags.contains(.fua): durable.insert(request.offset / 512)
    case .write: cached.insert(request.offset / 512)
    case .flush: durable.formUnion(cached)
    default: break
    }
  }

  /// Does one of the requests that have come, in whatever order, and answers it.
  @discardableResult
  private mutating func answerOne() throws -> Bool {
    let arrivals = network.arrivals
    guard !arrivals.isEmpty else { return false }
    let arrival = random.one(of: arrivals)
    work(arrival.request)
    network.answer(arrival)
    return true
  }

  /// Some of what was under way there is done, and nobody hears of it.
  private mutating func breakOne(_ connection: Int) {
    for arrival in network.arrivals where arrival.connection == connection {
      if random.chance(1, in: 2) { work(arrival.request) }
    }
    network.lose(connection)
  }

  private func check() throws {
    for arrival in network.arrivals where arrival.request.command == .write {
      let number = sectors[arrival.request.offset / 512]
      try ensure(
        number.map { caller.answers[$0] == nil } ?? false, "a write is sent that is over")
    }
    for (sector, number) in sectors where kinds[number] == .durableWrite && caller.isDone(number) {
      try ensure(durable.contains(sector), "a durable write that isn't")
    }
    for (number, sectors) in covered where caller.isDone(number) {
      let missing = sectors.subtracting(durable)
      try ensure(missing.isEmpty, "a flush went well, and \(missing.count) writes aren't durable")
    }
  }
}

@Suite struct ReconnectingSimulationTests {
  @Test func `over any loss nothing is forgotten, done anew or promised too early`() throws {
    try forEachSeed(150) { seed in
      var simulation = try ReconnectingSimulation(seed: seed)
      try simulation.run()
    }
  }
}
