import BlockIOTesting
import Testing

@testable import NBD

extension RequestLedger {
  /// Everything there is to do now.
  fileprivate mutating func steps() -> [Step] {
    var steps: [Step] = []
    while let step = next() { steps.append(step) }
    return steps
  }

  /// A change that is sent and answered on the only connection there is.
  fileprivate mutating func change(on connection: Connection, durable: Bool = false) {
    let number = submit(.change(durable: durable), bytes: 512)
    #expect(steps() == [.send(number, on: connection)])
    answered(number, on: connection, success: true)
  }
}

@Suite struct RequestLedgerTests {
  @Test func `requests wait for a connection and go out in order`() {
    var ledger = RequestLedger()
    let numbers = (0..<3).map { _ in ledger.submit(.query, bytes: 512) }
    #expect(ledger.steps().isEmpty)
    ledger.opened(7)
    #expect(ledger.steps() == numbers.map { .send($0, on: 7) })
    #expect(ledger.isBusy(7) && !ledger.isIdle)
    for number in numbers { ledger.answered(number, on: 7, success: true) }
    #expect(ledger.isIdle && !ledger.isBusy(7))
  }

  @Test func `the shortest queue is the next, and bounds hold`() {
    var ledger = RequestLedger(bounds: .init(requests: 2, bytes: 1000))
    ledger.opened(1)
    ledger.opened(2)
    let large = ledger.submit(.query, bytes: 5000)
    let small = (0..<3).map { _ in ledger.submit(.query, bytes: 100) }
    #expect(
      ledger.steps() == [
        .send(large, on: 1), .send(small[0], on: 2), .send(small[1], on: 2),
      ])
    ledger.answered(small[0], on: 2, success: true)
    #expect(ledger.steps() == [.send(small[2], on: 2)])
    #expect(ledger.isUnderWay(small[2], on: 2) && !ledger.isUnderWay(small[2], on: 1))
  }

  @Test func `what was under way is sent again first, in its order`() {
    var ledger = RequestLedger(bounds: .init(requests: 2))
    ledger.opened(1)
    let numbers = (0..<4).map { _ in ledger.submit(.change(durable: false), bytes: 512) }
    #expect(ledger.steps().count == 2)
    ledger.answered(numbers[0], on: 1, success: false)
    #expect(ledger.steps().count == 1)
    #expect(ledger.lost(1) == [])
    #expect(ledger.steps().isEmpty)
    ledger.opened(2)
    #expect(ledger.steps() == [.send(numbers[1], on: 2), .send(numbers[2], on: 2)])
  }

  @Test func `a request that every connection dies of is given up`() {
    var ledger = RequestLedger(bounds: .init(sendings: 3))
    let poison = ledger.submit(.query, bytes: 0)
    for connection in 1...3 {
      ledger.opened(connection)
      #expect(ledger.steps() == [.send(poison, on: connection)])
      #expect(ledger.lost(connection) == (connection == 3 ? [poison] : []))
    }
    #expect(ledger.isIdle)
  }

  @Test func `in the end everything is given up`() {
    var ledger = RequestLedger(bounds: .init(requests: 1))
    ledger.opened(1)
    let numbers = (0..<3).map { _ in ledger.submit(.query, bytes: 1) }
    _ = ledger.steps()
    #expect(ledger.abandon() == numbers)
    #expect(ledger.isIdle && ledger.next() == nil)
  }

  // MARK: What a flush vouches for

  @Test func `a flush goes on when nothing was answered before the loss`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    let write = ledger.submit(.change(durable: false), bytes: 512)
    let flush = ledger.submit(.flush, bytes: 0)
    #expect(ledger.steps().count == 2)
    _ = ledger.lost(1)
    ledger.opened(2)
    #expect(ledger.steps() == [.send(write, on: 2), .send(flush, on: 2)])
    #expect(ledger.lost == 0)
  }

  @Test func `a write that was answered and not flushed fails every later flush`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    ledger.change(on: 1)
    ledger.change(on: 1)
    _ = ledger.lost(1)
    #expect(ledger.lost == 2)
    ledger.opened(2)
    for _ in 0..<2 {
      let flush = ledger.submit(.flush, bytes: 0)
      #expect(ledger.steps() == [.refuse(flush)])
      ledger.change(on: 2)
    }
  }

  @Test func `a flush that is under way when the connection is lost fails, too`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    ledger.change(on: 1)
    let flush = ledger.submit(.flush, bytes: 0)
    #expect(ledger.steps() == [.send(flush, on: 1)])
    _ = ledger.lost(1)
    #expect(ledger.steps() == [.refuse(flush)])
  }

  @Test func `what a flush made durable is not lost, nor is what was durable at once`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    ledger.change(on: 1)
    let flush = ledger.submit(.flush, bytes: 0)
    _ = ledger.steps()
    ledger.answered(flush, on: 1, success: true)
    ledger.change(on: 1, durable: true)
    _ = ledger.lost(1)
    #expect(ledger.lost == 0)
    ledger.opened(2)
    let other = ledger.submit(.flush, bytes: 0)
    #expect(ledger.steps() == [.send(other, on: 2)])
  }

  @Test func `a flush doesn't cover what was answered after it was sent`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    ledger.change(on: 1)
    let flush = ledger.submit(.flush, bytes: 0)
    _ = ledger.steps()
    ledger.change(on: 1)
    ledger.answered(flush, on: 1, success: true)
    _ = ledger.lost(1)
    #expect(ledger.lost == 1)
  }

  @Test func `a failed flush makes nothing durable`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    ledger.change(on: 1)
    let flush = ledger.submit(.flush, bytes: 0)
    _ = ledger.steps()
    ledger.answered(flush, on: 1, success: false)
    _ = ledger.lost(1)
    #expect(ledger.lost == 1)
  }

  @Test func `an older connection vouches for one that was lost, a newer one doesn't`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    ledger.opened(2)
    ledger.change(on: 1)
    _ = ledger.lost(1)
    #expect(ledger.lost == 0)
    ledger.opened(3)
    let flush = ledger.submit(.flush, bytes: 0)
    #expect(ledger.steps() == [.send(flush, on: 2)])
    // Gone, too, before it has answered: the third one is too young to know.
    _ = ledger.lost(2)
    #expect(ledger.lost == 1)
    #expect(ledger.steps() == [.refuse(flush)])
  }

  @Test func `after a flush the newer connection vouches as well`() {
    var ledger = RequestLedger()
    ledger.opened(1)
    ledger.change(on: 1)
    ledger.opened(2)
    let flush = ledger.submit(.flush, bytes: 0)
    #expect(ledger.steps() == [.send(flush, on: 1)])
    ledger.answered(flush, on: 1, success: true)
    _ = ledger.lost(1)
    ledger.change(on: 2)
    let other = ledger.submit(.flush, bytes: 0)
    #expect(ledger.steps() == [.send(other, on: 2)])
    #expect(ledger.lost == 0)
  }
}
