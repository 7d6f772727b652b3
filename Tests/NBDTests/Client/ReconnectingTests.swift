import BlockIO
import NIOCore
import Testing

@testable import NBD

@Suite struct ReconnectingTests {
  private static let limit = Duration.seconds(30)
  /// How late the end of a limit may be noticed: an eighth.
  private static let slack = Duration.milliseconds(3750)

  @Test func `pauses between attempts grow, up to two seconds`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    _ = caller.read(0)
    network.settle()
    let lost = network.now
    network.kill()
    network.wait(.seconds(10))
    let times = [lost] + network.attempts.dropFirst()
    let pauses = zip(times, times.dropFirst()).map { ($1 - $0).nanoseconds / 1_000_000 }
    #expect(pauses == [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000])
  }

  @Test func `after the limit everything fails, with the reason, and no attempt follows`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    let requests = [caller.read(0), caller.write(1), caller.flush()]
    network.settle()
    network.wait(.seconds(1))
    network.kill()
    network.wait(Self.limit - .milliseconds(1))
    #expect(caller.answers.isEmpty, "given up too early")
    network.wait(Self.slack + .milliseconds(1))
    for request in requests {
      let reason = caller.failure(request)
      #expect(reason?.contains("could not be reached again within 30.0 seconds") == true)
      #expect(reason?.contains("Connection refused") == true, "\(reason ?? "none")")
    }
    let attempts = network.attempts.count
    network.isUp = true
    let late = caller.read(2)
    #expect(caller.failure(late) == caller.failure(requests[0]), "not at once")
    network.wait(.seconds(100))
    #expect(network.attempts.count == attempts)
  }

  @Test func `a server that is back in time is as good as one that never went`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    // More than the limit in all, but never at a time.
    for sector in 0..<4 {
      let read = caller.read(UInt64(sector))
      network.settle()
      network.kill()
      network.wait(Self.limit - .seconds(2))
      network.isUp = true
      network.wait(.seconds(2) - .milliseconds(1))
      network.answerAll()
      #expect(caller.isDone(read))
    }
  }

  @Test func `nobody waits: it isn't tried for ever, but again when somebody does`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    network.kill()
    network.wait(.seconds(60))
    let attempts = network.attempts.count
    network.wait(.seconds(600))
    #expect(network.attempts.count == attempts)
    network.isUp = true
    let read = caller.read(0)
    network.answerAll()
    #expect(caller.isDone(read))
  }

  @Test func `what wasn't answered is sent again, in order, and nothing else`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    let writes = (0..<6).map { caller.write(UInt64($0), byte: UInt8($0) + 40) }
    network.settle()
    let arrivals = network.arrivals
    try #require(arrivals.count == 6)
    network.answer(arrivals[1])
    network.answer(arrivals[3])
    network.kill()
    network.isUp = true
    network.wait(.seconds(1))
    #expect(network.arrivals.map { $0.request.offset / 512 } == [0, 2, 4, 5])
    for arrival in network.arrivals {
      let byte = UInt8(arrival.request.offset / 512) + 40
      #expect(arrival.data.readableBytesView.elementsEqual(repeatElement(byte, count: 512)))
    }
    #expect(writes.filter(caller.isDone) == [writes[1], writes[3]])
    network.answerAll()
    #expect(writes.allSatisfy(caller.isDone))
  }

  @Test func `of several connections the others take over`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open(several: true))
    let reads = (0..<40).map { caller.read(UInt64($0)) }
    network.settle()
    let connections = network.connections
    #expect(connections.count > 1)
    network.isUp = false
    network.lose(connections[0])
    #expect(Set(network.arrivals.map(\.request.offset)).count == 40)
    network.answerAll()
    #expect(reads.allSatisfy(caller.isDone))
  }

  @Test func `a request that costs one connection after the other is given up`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    let read = caller.read(0)
    for _ in 0..<5 {
      #expect(caller.failure(read) == nil)
      network.wait(.seconds(3))
      network.lose(try #require(network.arrivals.first).connection)
    }
    #expect(caller.failure(read)?.contains("each connection that it was sent on was lost") == true)
    let next = caller.read(1)
    network.wait(.seconds(3))
    network.answerAll()
    #expect(caller.isDone(next), "others suffer from it")
  }

  // MARK: Silence

  @Test func `a silent server is left after the limit for requests, and asked anew`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    let read = caller.read(0)
    network.wait(.seconds(60) - .milliseconds(1))
    #expect(network.connections == [1])
    network.wait(Self.slack + .milliseconds(51))
    #expect(network.connections == [2])
    network.answerAll()
    #expect(caller.isDone(read))
  }

  @Test func `a slow server that answers now and then is kept`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    let reads = (0..<5).map { caller.read(UInt64($0)) }
    for _ in reads {
      network.wait(.seconds(50))
      network.answer(try #require(network.arrivals.first))
    }
    #expect(reads.allSatisfy(caller.isDone))
    #expect(network.attempts.count == 1)
  }

  @Test func `one that accepts and says nothing counts as away`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    let read = caller.read(0)
    network.settle()
    network.kill()
    network.isUp = true
    network.isTalking = false
    network.wait(Self.limit - .milliseconds(1))
    #expect(caller.answers.isEmpty, "given up too early")
    network.wait(Self.slack + .milliseconds(1))
    #expect(caller.failure(read)?.contains("could not be reached again") == true)
    // One handshake may take 20 seconds.
    #expect(network.attempts.count == 3)
  }

  // MARK: Flushes

  @Test func `a flush vouches for nothing that a lost server had acknowledged`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    _ = caller.write(0)
    network.answerAll()
    // Under way, or not even asked for, when the server goes.
    let first = caller.flush()
    network.settle()
    network.kill()
    network.isUp = true
    network.wait(.seconds(1))
    network.answerAll()
    let second = caller.flush()
    network.answerAll()
    for flush in [first, second] {
      let reason = caller.failure(flush)
      #expect(reason?.contains("acknowledged but not flushed may be lost") == true)
    }
  }

  @Test func `what was flushed, or durable at once, isn't lost with the server`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    _ = caller.write(0)
    network.answerAll()
    _ = caller.flush()
    network.answerAll()
    _ = caller.write(1, durable: true)
    network.answerAll()
    network.kill()
    network.isUp = true
    let flush = caller.flush()
    network.wait(.seconds(1))
    network.answerAll()
    #expect(caller.isDone(flush))
  }

  @Test func `a flush doesn't vouch for what was answered after it was sent`() throws {
    let network = VirtualNetwork()
    let caller = try Caller(network.open())
    let write = caller.write(0)
    network.settle()
    network.kill()
    network.isUp = true
    let flush = caller.flush()
    network.wait(.seconds(1))
    let arrivals = network.arrivals
    try #require(arrivals.map(\.request.command) == [.write, .flush])
    network.answer(arrivals[0])
    network.answer(arrivals[1])
    #expect(caller.isDone(write) && caller.isDone(flush))
    network.kill()
    network.isUp = true
    let next = caller.flush()
    network.wait(.seconds(1))
    network.answerAll()
    #expect(caller.failure(next)?.contains("may be lost") == true)
  }
}
