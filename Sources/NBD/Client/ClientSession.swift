import BlockIO
import NIOCore

/// Requests to one export and the connections that they go over.
///
/// Belongs to one event loop: everything is called there. What is decided – see ``RequestLedger``
/// – is done here.
final class ClientSession {
  typealias Number = RequestLedger.Number
  /// Called once for each request, on the event loop.
  typealias Completion = (ClientAnswer) -> Void
  /// Makes a connection to the server, within the limit, on the session's event loop; what prepares
  /// it is called before anything comes on it.
  typealias Connector = (
    NBDURI.Server, TimeAmount, any EventLoop,
    @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
  ) -> EventLoopFuture<any Channel>

  let uri: NBDURI
  let options: NBDClientOptions
  let eventLoop: any EventLoop
  let tls: ClientTLS?
  let connector: Connector

  var ledger = RequestLedger()
  var lines: [RequestLedger.Connection: ClientLine] = [:]
  /// Who waits for a connection to be usable.
  var opening: [RequestLedger.Connection: (Result<ExportInfo, LineFailure>) -> Void] = [:]
  var lastConnection: RequestLedger.Connection = 0
  /// What the server said of the export at first; later connections must say the same.
  var export: ExportInfo?
  /// Why nothing works any more.
  var failure: LineFailure?
  /// Why the last connection was lost.
  var lastLoss: LineFailure?
  /// Since when no server has answered a request.
  var outage: NIODeadline?
  /// How many connections there should be.
  var wanted = 1
  /// How many there may be.
  var most = 1
  /// Before that no connection is added.
  var growsAfter = NIODeadline.uptimeNanoseconds(0)
  var isReconnecting = false
  /// Attempts and losses since the last answer to a request.
  var attempts = 0
  var watchdog: Scheduled<Void>?

  /// So many requests for each connection are reason for another one.
  private static let crowd = 4

  private var outstanding: [Number: (request: ClientRequest, completion: Completion)] = [:]
  private var unflushed: Set<RequestLedger.Connection> = []

  init(
    _ uri: NBDURI, _ options: NBDClientOptions, on eventLoop: any EventLoop,
    connector: @escaping Connector = ClientSession.connectByNetwork
  ) throws(LineFailure) {
    self.uri = uri
    self.options = options
    self.eventLoop = eventLoop
    self.connector = connector
    tls = try ClientTLS(uri, options)
  }

  /// Whether requests can be sent.
  var isConnected: Bool { lines.values.contains { $0.handshake == nil } }

  // MARK: Requests

  func submit(_ request: ClientRequest, _ completion: @escaping Completion) {
    if let failure {
      return completion(Self.failed(failure))
    }
    if !isConnected, ledger.isIdle { outage = eventLoop.now }
    let number = ledger.submit(request.kind, bytes: request.payload)
    outstanding[number] = (request, completion)
    pump()
    if lines.isEmpty { reconnect() }
  }

  /// Sends what may be sent now; all of it is flushed in one go, at the end of the loop's turn.
  func pump() {
    while let step = ledger.next() {
      switch step {
      case .refuse(let number): finish(number, .failed(mayBeLost))
      case .send(let number, let connection):
        guard let line = lines[connection], let request = outstanding[number]?.request else {
          continue
        }
        line.append(request, number)
        if unflushed.isEmpty { eventLoop.assumeIsolated().execute { self.flush() } }
        unflushed.insert(connection)
      }
    }
    grow()
  }

  /// Adds a connection where those that are there have enough to do: each costs the server
  /// something, from milliseconds to a process.
  private func grow() {
    guard isConnected, wanted < most, !isReconnecting,
      outstanding.count >= Self.crowd * lines.count,
      eventLoop.now >= growsAfter
    else { return }
    wanted += 1
    reconnect()
  }

  /// A connection was lost or refused, but there are others: they have to do, for the time being.
  func settle() {
    wanted = max(1, lines.count)
    growsAfter = eventLoop.now + .seconds(1)
  }

  private func flush() {
    let connections = unflushed
    unflushed = []
    for connection in connections { lines[connection]?.flush() }
  }

  private func finish(_ number: Number, _ answer: ClientAnswer) {
    outstanding.removeValue(forKey: number)?.completion(answer)
  }

  private var mayBeLost: RequestFailure {
    RequestFailure(
      error: .io,
      detail: "\(ledger.lost) writes that the server had acknowledged but not flushed may be lost"
        + " since the connection was (\(lastLoss?.description ?? "closed")); write them again")
  }

  private static func failed(_ failure: LineFailure) -> ClientAnswer {
    .failed(RequestFailure(error: .io, detail: failure.description))
  }

  // MARK: Answers

  func received(_ bytes: ByteBuffer, on connection: RequestLedger.Connection) {
    guard let line = lines[connection] else { return }
    do throws(LineFailure) {
      guard line.handshake == nil else { return try shakeHands(bytes, line) }
      try line.take(bytes) { number, answer in
        var success = true
        if case .failed = answer { success = false }
        ledger.answered(number, on: connection, success: success)
        outage = nil
        attempts = 0
        finish(number, answer)
      }
      pump()
    } catch {
      lose(connection, error)
    }
  }

  private func shakeHands(_ bytes: ByteBuffer, _ line: ClientLine) throws(LineFailure) {
    let actions = try line.handshake?.receive(bytes) ?? []
    for action in actions { try act(action, line) }
  }

  private func act(_ action: ClientHandshake.Action, _ line: ClientLine) throws(LineFailure) {
    switch action {
    case .send(let bytes): line.channel.writeAndFlush(bytes, promise: nil)
    case .startTLS:
      guard let tls else { return }
      do {
        try line.channel.pipeline.syncOperations.addHandler(tls.handler(), position: .first)
      } catch {
        throw LineFailure("TLS: \(error)", isFinal: true)
      }
      for next in line.handshake?.tlsStarted() ?? [] { try act(next, line) }
    case .use(let info):
      line.use(info)
      opening.removeValue(forKey: line.number)?(.success(info))
    }
  }

  // MARK: Ends

  /// A connection is over; what was under way on it goes over another one.
  func lose(_ connection: RequestLedger.Connection, _ reason: LineFailure) {
    guard let line = lines.removeValue(forKey: connection) else { return }
    line.close()
    if let opening = opening.removeValue(forKey: connection) { return opening(.failure(reason)) }
    lastLoss = reason
    attempts += 1
    let given = LineFailure(
      "each connection that it was sent on was lost, the last one: \(reason)")
    for number in ledger.lost(connection) { finish(number, Self.failed(given)) }
    if isConnected {
      settle()
    } else {
      outage = outage ?? eventLoop.now
      giveUpAfterLimit()
    }
    pump()
    reconnect()
  }

  /// Whether the server has been away for longer than is waited for it; then all is over.
  func giveUpAfterLimit() {
    guard let outage, !ledger.isIdle,
      eventLoop.now - outage >= TimeAmount(options.reconnectLimit)
    else { return }
    fail(
      LineFailure(
        "the server could not be reached again within \(options.reconnectLimit):"
          + " \(lastLoss?.description ?? "no answer")", isFinal: true))
  }

  /// Everything that waits and everything to come fails.
  func fail(_ reason: LineFailure) {
    failure = failure ?? reason
    for number in ledger.abandon() { finish(number, Self.failed(reason)) }
    close()
  }

  /// Says goodbye and closes all connections. Nothing may be under way.
  func close() {
    failure = failure ?? LineFailure("the device is closed", isFinal: true)
    watchdog?.cancel()
    let all = lines.values
    lines = [:]
    for line in all { line.leave() }
  }
}
