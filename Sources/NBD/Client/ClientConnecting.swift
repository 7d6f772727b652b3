import NIOCore
import NIOPosix

/// Making connections, and making them again.
extension ClientSession {
  /// The first connection: the export as the server describes it.
  func open(_ done: @escaping (Result<ExportInfo, LineFailure>) -> Void) {
    connect { result in
      if case .success(let info) = result {
        // A first connection is the only one that says what the export is.
        self.export = info
        self.startWatchdog()
        self.most = info.flags.contains(.canMultiConn) ? max(1, self.options.connections) : 1
      }
      done(result)
    }
  }

  /// One attempt. `done` is called when the connection can be used, or can't.
  private func connect(_ done: @escaping (Result<ExportInfo, LineFailure>) -> Void) {
    lastConnection += 1
    let number = lastConnection
    let limit = TimeAmount(options.handshakeTimeout)
    let bound = NIOLoopBound(self, eventLoop: eventLoop)
    var isDone = false
    var deadline: Scheduled<Void>?
    let end: (Result<ExportInfo, LineFailure>) -> Void = { result in
      guard !isDone else { return }
      isDone = true
      deadline?.cancel()
      done(result.flatMap { self.take($0, number) })
    }
    opening[number] = end
    deadline = eventLoop.assumeIsolated().scheduleTask(in: limit) {
      self.lose(number, LineFailure("no answer within \(self.options.handshakeTimeout)"))
      // No connection was there to be lost: it is still being made.
      self.opening.removeValue(forKey: number)
      end(.failure(LineFailure("no answer within \(self.options.handshakeTimeout)")))
    }
    let channel = connector(uri.server, limit, eventLoop) { channel in
      channel.eventLoop.makeCompletedFuture {
        let session = bound.value
        session.lines[number] = ClientLine(
          number: number, channel: channel,
          handshake: ClientHandshake(export: session.uri.export, tls: session.tls != nil),
          isEncrypted: session.tls != nil)
        try channel.pipeline.syncOperations.addHandler(ClientInlet(session, number))
      }
    }
    channel.assumeIsolated().whenComplete { result in
      switch result {
      case .failure(let error):
        self.lines[number] = nil
        self.opening[number] = nil
        end(.failure(LineFailure(describe(error))))
      case .success(let channel):
        // Given up while it was being made.
        if self.lines[number] == nil { channel.close(promise: nil) }
      }
    }
  }

  /// The connector of all sessions but those of tests.
  static func connectByNetwork(
    _ server: NBDURI.Server, _ limit: TimeAmount, _ eventLoop: any EventLoop,
    _ prepare: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
  ) -> EventLoopFuture<any Channel> {
    let bootstrap = ClientBootstrap(group: eventLoop)
      .connectTimeout(limit)
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .channelOption(
        .recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: ReceiveSize.usual)
      )
      // What is read next may be better read otherwise.
      .channelOption(.maxMessagesPerRead, value: 1)
      .channelInitializer(prepare)
    return switch server {
    case .tcp(let host, let port): bootstrap.connect(host: host, port: port)
    case .unix(let path): bootstrap.connect(unixDomainSocketPath: path)
    }
  }

  /// A connection is ready: it must be to the same export.
  private func take(
    _ info: ExportInfo, _ number: RequestLedger.Connection
  ) -> Result<ExportInfo, LineFailure> {
    if let change = export.flatMap({ Self.change(from: $0, to: info) }) {
      lines.removeValue(forKey: number)?.close()
      return .failure(LineFailure("the export is another one now: \(change)", isFinal: true))
    }
    ledger.opened(number)
    pump()
    return .success(info)
  }

  private static func change(from old: ExportInfo, to new: ExportInfo) -> String? {
    if old.byteCount != new.byteCount {
      return "it had \(old.byteCount) bytes and has \(new.byteCount)"
    }
    if old.flags.subtracting([.canMultiConn, .rotational])
      != new.flags.subtracting([.canMultiConn, .rotational])
      || (old.minimumBlock, old.maximum) != (new.minimumBlock, new.maximum)
      || (old.allocation == nil) != (new.allocation == nil)
    {
      return "it can do something else than before"
    }
    return nil
  }

  // MARK: Again

  /// Makes the connections that are missing, one after the other, with growing delays.
  func reconnect() {
    guard !isReconnecting, failure == nil, lines.count < wanted, export != nil else { return }
    isReconnecting = true
    // At once at first, then after 50 ms, 100 ms, … 2 s.
    let delay: Int64 = attempts == 0 ? 0 : min(2000, 25 << Int64(min(attempts, 10)))
    eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(delay)) {
      guard self.failure == nil else { return }
      self.connect { self.attempted($0) }
    }
  }

  private func attempted(_ result: Result<ExportInfo, LineFailure>) {
    isReconnecting = false
    // Only an answer shows that the server is well: one that hangs up at once isn't hurried.
    guard case .failure(let reason) = result else { return reconnect() }
    if !lines.isEmpty {
      // An additional one: it can be done without.
      if reason.isFinal { most = lines.count }
      return settle()
    }
    attempts += 1
    lastLoss = reason
    if reason.isFinal { return fail(reason) }
    giveUpAfterLimit()
    let isOver = outage.map { eventLoop.now - $0 >= TimeAmount(options.reconnectLimit) } ?? true
    // Nobody waits: the next request tries again.
    if isOver, ledger.isIdle {
      attempts = 0
      return
    }
    reconnect()
  }

  /// Looks now and then for connections that don't go on.
  private func startWatchdog() {
    let shortest = min(options.requestTimeout, options.reconnectLimit)
    let period = max(.milliseconds(10), TimeAmount(shortest / 8))
    watchdog = eventLoop.assumeIsolated().scheduleTask(in: period) {
      self.watch()
      if self.failure == nil { self.startWatchdog() }
    }
  }

  private func watch() {
    let limit = TimeAmount(options.requestTimeout)
    for line in lines.values where line.handshake == nil {
      if !ledger.isBusy(line.number) {
        line.noteProgress()
      } else if eventLoop.now - line.progress >= limit {
        lose(line.number, LineFailure("no answer within \(options.requestTimeout)"))
      }
    }
    if !isConnected { giveUpAfterLimit() }
  }
}
