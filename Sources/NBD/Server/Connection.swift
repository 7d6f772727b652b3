import BlockIO
import Logging
import NIOCore
import NIOSSL

/// One client: its handshake, then its requests, as many at once as the limits let.
///
/// Lives on the loop that its channel's event loop hosts: the channel's handler calls it directly,
/// and a request that needs no waiting is answered before that call returns.
actor Connection {
  enum Phase {
    case negotiating(ServerNegotiation)
    case transmitting(Agreement, Export)
    /// Nothing more is read; what is under way is answered.
    case closing
    /// All is answered; the client is to take it.
    case leaving
    case closed
  }

  nonisolated let channel: any Channel
  nonisolated let loop: IOLoop
  nonisolated let server: NBDServer
  var logger: Logger
  var phase: Phase
  nonisolated var limits: ServerLimits { server.limits }

  /// What has come and isn't understood yet.
  var input = ByteBuffer()
  /// A write whose data are still coming, and those that have come. Its bytes count as under way.
  var begun: (request: RequestHeader, data: ReceivedData)?
  /// Since when part of a request has been there.
  var partSince: LoopInstant?
  /// Whether the next request is there, and has to wait for the bytes that all connections share.
  var isWaitingForBytes = false
  /// Answers not handed to the channel yet.
  var output = ByteBuffer()
  var isReceiving = false
  var isParsing = false
  var isFlushPlanned = false
  /// What NIO was given to send and hasn't sent yet, in pieces.
  var handedOver = 0
  /// Past NIO; nil with TLS.
  var socket: DirectSocket?
  var polling: Polling
  /// What is received past NIO.
  var inbox = ByteBuffer()
  /// How much is received at a time.
  let receiveSize: NIOLoopBoundBox<Int>
  /// Whether the channel waits for being told to read on.
  var hasHeldRead = false

  var inFlight = 0
  var bytesInFlight = 0
  /// Bytes of answered requests that count as under way until the client has taken the answers.
  var bytesOwed = 0
  private let idle = Gate()
  /// When the client was last seen to take something of what it is sent.
  private var lastTaken: LoopInstant
  private var lastUnsent = 0

  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  init(_ channel: any Channel, _ server: NBDServer, peer: String, on loop: IOLoop) {
    self.channel = channel
    self.server = server
    self.loop = loop
    logger = server.logger
    logger[metadataKey: "peer"] = "\(peer)"
    let tls = server.tls
    phase = .negotiating(
      ServerNegotiation(offersTLS: tls != nil, requiresTLS: tls?.mode == .require))
    lastTaken = LoopInstant(nanoseconds: 0)
    receiveSize = NIOLoopBoundBox(ReceiveSize.usual, eventLoop: channel.eventLoop)
    polling = Polling(window: server.limits.poll)
  }

  // MARK: From the channel

  func begin() {
    lastTaken = loop.now
    socket = DirectSocket(channel)
    channel.writeAndFlush(ServerNegotiation.greeting, promise: nil)
    watch(from: loop.now)
  }

  func receive(_ bytes: ByteBuffer) {
    isReceiving = true
    polling.noteArrival(at: loop.now)
    var bytes = bytes
    switch phase {
    case .negotiating: negotiate(bytes)
    case .transmitting:
      if input.readableBytes == 0 { input = bytes } else { input.writeBuffer(&bytes) }
      parse()
    case .closing, .leaving, .closed: break
    }
  }

  /// Everything that had come has been received.
  func receivedAll() {
    isReceiving = false
    flushOutput()
  }

  func becameSecure() {
    guard case .negotiating(var negotiation) = phase else { return }
    negotiation.becameSecure()
    phase = .negotiating(negotiation)
  }

  /// Whether more is to be read from the client now; if not, it will be asked for.
  func mayRead() -> Bool {
    if isSaturated {
      hasHeldRead = true
      return false
    }
    return true
  }

  func writabilityChanged() {
    if channel.isWritable {
      lastTaken = loop.now
      releaseOwed()
    }
    resume()
  }

  /// The client has gone. What it has asked for is done to its end; nobody hears of it.
  func ended() {
    if case .closed = phase { return }
    let wasServing =
      switch phase {
      case .negotiating, .transmitting: true
      case .closing, .leaving, .closed: false
      }
    phase = .closed
    dropInput()
    releaseOwed()
    output.clear()
    if wasServing { logger.info("connection closed") }
    if inFlight == 0 { forget() }
  }

  func failed(_ error: any Error) {
    close("\(error)")
  }

  // MARK: Ending

  func forget() {
    idle.open()
    server.forget(self)
  }

  /// Closes at once, without another word.
  func close(_ reason: String) {
    if case .closed = phase { return }
    logger.notice("connection closed: \(reason)")
    phase = .closed
    dropInput()
    releaseOwed()
    output.clear()
    channel.close(promise: nil)
    if inFlight == 0 { forget() }
  }

  /// Takes no further request, answers those under way and closes.
  func finish() {
    switch phase {
    case .closing, .leaving, .closed: return
    case .negotiating, .transmitting: phase = .closing
    }
    dropInput()
    closeWhenIdle()
  }

  func closeWhenIdle() {
    guard case .closing = phase, inFlight == 0 else { return }
    phase = .leaving
    let last = output
    output = ByteBuffer()
    logger.info("connection closed")
    // It stays counted, and its memory with it, until the client has taken the last answers, or has
    // stalled over them.
    channel.writeAndFlush(last).whenComplete { [channel] _ in channel.close(promise: nil) }
    idle.open()
  }

  /// As ``finish()``, for the server; waits until all is answered, at most that long.
  func drain(atMost limit: Duration) async {
    finish()
    let deadline = loop.now.advanced(by: limit)
    let isLate = Task.immediate {
      while self.loop.now < deadline, self.inFlight > 0 {
        await self.loop.sleep(for: .milliseconds(50))
      }
      if self.inFlight > 0 { self.close("its requests didn't end in time") }
      self.idle.open()
    }
    await idle.wait { inFlight > 0 && loop.now < deadline }
    isLate.cancel()
  }

  /// Looks now and then whether the client has stalled, as long as there is one.
  private func watch(from start: LoopInstant) {
    Task.immediate {
      while true {
        await self.loop.sleep(for: .seconds(1))
        guard self.isAlive(since: start) else { return }
      }
    }
  }

  private func isAlive(since start: LoopInstant) -> Bool {
    let now = loop.now
    switch phase {
    case .closed: return false
    case .negotiating:
      if start.duration(to: now) > limits.handshake { close("no export chosen in time") }
    case .closing, .leaving, .transmitting:
      let unsent = Int((try? channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0)
      if unsent < lastUnsent || unsent == 0 { lastTaken = now }
      lastUnsent = unsent
      let waited = min(lastTaken, partSince ?? now).duration(to: now)
      if waited > limits.stall { close("the client has stalled") }
    }
    return true
  }

  // MARK: Handshake

  private func negotiate(_ bytes: ByteBuffer) {
    guard case .negotiating(var negotiation) = phase else { return }
    let actions = negotiation.receive(bytes, server.catalogue)
    phase = .negotiating(negotiation)
    for action in actions {
      switch action {
      case .send(let bytes): channel.write(bytes, promise: nil)
      case .startTLS:
        channel.flush()
        startTLS()
      case .transmit(let agreement): transmit(agreement, rest: negotiation.takeRest())
      case .close(nil):
        channel.flush()
        finish()
      case .close(let reason?):
        channel.flush()
        close(reason)
      }
    }
    channel.flush()
  }

  private func startTLS() {
    guard let tls = server.tls else { return close("TLS without a certificate") }
    socket = nil
    do {
      try channel.pipeline.syncOperations.addHandler(
        NIOSSLServerHandler(context: tls.context), position: .first)
    } catch {
      close("TLS can't be started: \(error)")
    }
  }

  private func transmit(_ agreement: Agreement, rest: ByteBuffer) {
    guard let export = server.registry.export(named: agreement.export, for: self) else {
      return close("the export '\(agreement.export)' has gone")
    }
    phase = .transmitting(agreement, export)
    logger[metadataKey: "export"] = "\(export.name)"
    logger.info("connection opened")
    // What is said past NIO comes behind what was said by it.
    handOver(ByteBuffer())
    if socket != nil {
      // Refused by a closed channel only.
      try? channel.syncOptions?.setOption(.recvAllocator, value: ReceiveSize(bytes: receiveSize))
    }
    input = rest
    parse()
  }
}
