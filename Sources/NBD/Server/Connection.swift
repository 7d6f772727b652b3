import BlockIO
import DequeModule
import Logging
import NIOCore
import NIOSSL

/// One client: its handshake, then its requests, as many at once as the limits let.
///
/// Lives on the loop that its channel's event loop hosts: the channel's handler calls it directly,
/// and a request that needs no waiting is answered before that call returns.
actor Connection {
  private enum Phase {
    case negotiating(ServerNegotiation)
    case transmitting(Agreement, Export)
    /// Nothing more is read; what is under way is answered.
    case closing
    case closed
  }

  nonisolated let channel: any Channel
  private nonisolated let loop: IOLoop
  private nonisolated let server: NBDServer
  private var logger: Logger
  private var phase: Phase
  private nonisolated var limits: ServerLimits { server.limits }

  /// What has come and isn't understood yet.
  private var input = ByteBuffer()
  /// A write whose data are still coming.
  private var begun: RequestHeader?
  /// Answers not handed to the channel yet.
  private var output = ByteBuffer()
  private var isReceiving = false
  private var isParsing = false
  /// Whether the channel has answers that it hasn't been told to send.
  private var isUnflushed = false
  private var isFlushPlanned = false
  /// Whether the channel waits for being told to read on.
  private var hasHeldRead = false

  private var inFlight = 0
  private var bytesInFlight = 0
  private let idle = Gate()
  /// When the client was last seen to do something.
  private var lastProgress: LoopInstant
  private var lastUnsent = 0

  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  init(_ channel: any Channel, _ server: NBDServer, peer: String) {
    self.channel = channel
    self.server = server
    loop = server.network.ioLoop
    logger = server.logger
    logger[metadataKey: "peer"] = "\(peer)"
    let tls = server.tls
    phase = .negotiating(
      ServerNegotiation(offersTLS: tls != nil, requiresTLS: tls?.mode == .require))
    lastProgress = LoopInstant(nanoseconds: 0)
  }

  // MARK: From the channel

  func begin() {
    lastProgress = loop.now
    channel.writeAndFlush(ServerNegotiation.greeting, promise: nil)
    watch(from: loop.now)
  }

  func receive(_ bytes: ByteBuffer) {
    lastProgress = loop.now
    isReceiving = true
    var bytes = bytes
    switch phase {
    case .negotiating: negotiate(bytes)
    case .transmitting:
      if input.readableBytes == 0 { input = bytes } else { input.writeBuffer(&bytes) }
      parse()
    case .closing, .closed: break
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
    lastProgress = loop.now
    resume()
  }

  /// The client has gone. What it has asked for is done to its end; nobody hears of it.
  func ended() {
    if case .closed = phase { return }
    let wasServing = if case .closing = phase { false } else { true }
    phase = .closed
    input.clear()
    output.clear()
    if wasServing { logger.info("connection closed") }
    if inFlight == 0 { forget() }
  }

  func failed(_ error: any Error) {
    close("\(error)")
  }

  // MARK: Ending

  private func forget() {
    idle.open()
    server.assumeIsolated { $0.forget(self) }
  }

  /// Closes at once, without another word.
  private func close(_ reason: String) {
    if case .closed = phase { return }
    logger.notice("connection closed: \(reason)")
    phase = .closed
    input.clear()
    output.clear()
    channel.close(promise: nil)
    if inFlight == 0 { forget() }
  }

  /// Takes no further request, answers those under way and closes.
  private func finish() {
    switch phase {
    case .closing, .closed: return
    case .negotiating, .transmitting: phase = .closing
    }
    input.clear()
    begun = nil
    closeWhenIdle()
  }

  private func closeWhenIdle() {
    guard case .closing = phase, inFlight == 0 else { return }
    phase = .closed
    let last = output
    output = ByteBuffer()
    logger.info("connection closed")
    channel.writeAndFlush(last).whenComplete { [channel] _ in channel.close(promise: nil) }
    // Whoever doesn't even take the last answers.
    channel.eventLoop.scheduleTask(in: .nanoseconds(limits.stall.nanoseconds)) { [channel] in
      channel.close(promise: nil)
    }
    forget()
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

  /// Whether the connection uses that export.
  func uses(_ export: Export) -> Bool {
    if case .transmitting(_, let used) = phase { return used === export }
    return false
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
    case .closing, .transmitting:
      let unsent = Int((try? channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0)
      if unsent < lastUnsent { lastProgress = now }
      lastUnsent = unsent
      let isOwing = unsent > 0 || begun != nil || (input.readableBytes > 0 && !isSaturated)
      if !isOwing { lastProgress = now }
      if lastProgress.duration(to: now) > limits.stall { close("the client has stalled") }
    }
    return true
  }

  // MARK: Handshake

  private func negotiate(_ bytes: ByteBuffer) {
    guard case .negotiating(var negotiation) = phase else { return }
    let actions = negotiation.receive(bytes, server.assumeIsolated { $0.catalogue })
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
    do {
      try channel.pipeline.syncOperations.addHandler(
        NIOSSLServerHandler(context: tls.context), position: .first)
    } catch {
      close("TLS can't be started: \(error)")
    }
  }

  private func transmit(_ agreement: Agreement, rest: ByteBuffer) {
    guard let export = server.assumeIsolated({ $0.export(named: agreement.export) }) else {
      return close("the export '\(agreement.export)' has gone")
    }
    phase = .transmitting(agreement, export)
    logger[metadataKey: "export"] = "\(export.name)"
    logger.info("connection opened")
    input = rest
    parse()
  }

  // MARK: Requests

  private var isSaturated: Bool {
    switch phase {
    case .negotiating: return false
    case .closing, .closed: return true
    case .transmitting: break
    }
    // The rest of a write is always let in: only then it ends.
    if begun != nil { return false }
    return inFlight >= limits.requestsPerConnection || bytesInFlight >= limits.bytesPerConnection
      || server.budget.isSpent || !channel.isWritable
  }

  /// Reads on, if that is possible again.
  func resume() {
    if input.readableBytes > 0 { parse() }
    if hasHeldRead, !isSaturated {
      hasHeldRead = false
      channel.read()
    }
  }

  /// Starts the requests that have come, as many as may run.
  private func parse() {
    guard !isParsing else { return }
    isParsing = true
    defer { isParsing = false }
    while case .transmitting(let agreement, let export) = phase, !isSaturated {
      guard let request = nextRequest() else { break }
      if request.command == .disconnect { return finish() }
      var data = ByteBuffer()
      if request.command == .write {
        guard let slice = input.readSlice(length: Int(request.length)) else {
          begun = request
          input.reserveCapacity(Int(request.length))
          break
        }
        data = slice
      }
      begun = nil
      start(request, data, agreement, export)
    }
    if input.readableBytes == 0 { input.clear() } else { input.discardReadBytes() }
  }

  /// The request whose data are coming, or the next one.
  private func nextRequest() -> RequestHeader? {
    if let begun {
      return input.readableBytes >= Int(begun.length) ? begun : nil
    }
    guard input.readableBytes >= RequestHeader.size else { return nil }
    guard let request = RequestHeader(&input) else {
      close("something that is no request")
      return nil
    }
    if request.command == .write, request.length > limits.request {
      // There is no skipping that much.
      close("a write of \(request.length) bytes; the most is \(limits.request)")
      return nil
    }
    return request
  }

  private func start(
    _ request: RequestHeader, _ data: ByteBuffer, _ agreement: Agreement, _ export: Export
  ) {
    let weight = request.command == .read || request.command == .write ? Int(request.length) : 0
    inFlight += 1
    bytesInFlight += weight
    server.budget.take(weight)
    export.counters.begin()
    let began = loop.now
    Task.immediate(executorPreference: loop) {
      let hasFailed = await self.serve(request, data, agreement, export)
      let nanoseconds = UInt64(max(0, began.duration(to: self.loop.now).nanoseconds))
      export.counters.end(
        request.kind, bytes: UInt64(request.length), nanoseconds: nanoseconds,
        hasFailed: hasFailed)
      self.end(weight)
    }
  }

  private func end(_ weight: Int) {
    inFlight -= 1
    bytesInFlight -= weight
    if server.budget.giveBack(weight) { server.assumeIsolated { $0.resumeAll() } }
    switch phase {
    case .closed: if inFlight == 0 { forget() }
    case .closing: closeWhenIdle()
    case .negotiating: break
    case .transmitting:
      if !isParsing { resume() }
      planFlush()
    }
  }

  /// Does a request and answers it; true if it failed.
  private func serve(
    _ request: RequestHeader, _ data: ByteBuffer, _ agreement: Agreement, _ export: Export
  ) async -> Bool {
    let answers = AnswerWriter(cookie: request.cookie, isStructured: agreement.isStructured)
    if let (error, reason) = export.refusal(of: request, agreement, limits) {
      answer { answers.write(error, reason, to: &$0) }
      return true
    }
    do throws(IOFailure) {
      let bytes = request.bytes
      let isDurable = request.flags.contains(.fua)
      switch request.command {
      case .read: try await read(request, answers, export)
      case .write:
        try await export.write(data, at: request.offset, isDurable: isDurable)
        answer { answers.writeDone(to: &$0) }
      case .flush:
        try await export.flush()
        answer { answers.writeDone(to: &$0) }
      case .trim:
        try await export.trim(bytes, isDurable: isDurable)
        answer { answers.writeDone(to: &$0) }
      case .cache:
        try await export.cache(bytes)
        answer { answers.writeDone(to: &$0) }
      case .writeZeroes:
        try await export.writeZeroes(
          bytes, mayUnmap: !request.flags.contains(.noHole), isDurable: isDurable)
        answer { answers.writeDone(to: &$0) }
      default:
        let extents = try await export.extents(
          of: bytes, onlyOne: request.flags.contains(.requestOne))
        answer { answers.write(extents, to: &$0) }
      }
      return false
    } catch {
      logger.warning("request failed: \(error)")
      answer { answers.write(WireError(error.errno), error.description, to: &$0) }
      return true
    }
  }

  private func read(
    _ request: RequestHeader, _ answers: AnswerWriter, _ export: Export
  ) async throws(IOFailure) {
    var content = ByteBuffer()
    content.reserveCapacity(answers.readHead + Int(request.length))
    answers.writeReadHead(request, to: &content)
    try await export.read(request.bytes, appendingTo: &content)
    answer { $0.writeBuffer(&content) }
  }

  // MARK: Answers

  /// More than that is handed to the channel at once.
  private static let outputLimit = 256 << 10

  /// Puts an answer behind the others; they go out together.
  private func answer(_ write: (inout ByteBuffer) -> Void) {
    if case .closed = phase { return }
    write(&output)
    isUnflushed = true
    if output.readableBytes >= Self.outputLimit { writeOutput() }
  }

  private func writeOutput() {
    guard output.readableBytes > 0 else { return }
    channel.write(output, promise: nil)
    output = ByteBuffer()
  }

  private func planFlush() {
    guard isUnflushed, !isReceiving, !isFlushPlanned else { return }
    isFlushPlanned = true
    channel.eventLoop.execute { self.assumeIsolated { $0.flushOutput() } }
  }

  private func flushOutput() {
    isFlushPlanned = false
    guard isUnflushed else { return }
    isUnflushed = false
    if case .closed = phase { return }
    writeOutput()
    channel.flush()
  }
}

extension RequestHeader {
  /// The bytes that are meant. Checked before: they don't overflow.
  var bytes: Range<UInt64> { offset..<offset + UInt64(length) }

  /// How it is counted.
  var kind: ExportCounters.Kind {
    switch command {
    case .read: .read
    case .write: .write
    case .flush: .flush
    case .trim: .trim
    case .writeZeroes: .zero
    case .cache: .cache
    default: .status
    }
  }
}

extension Export {
  /// Why a request can't be done at all.
  nonisolated func refusal(
    of request: RequestHeader, _ agreement: Agreement, _ limits: ServerLimits
  ) -> (WireError, String)? {
    let known: CommandFlags
    switch request.command {
    case .read: known = agreement.isStructured ? [.fua, .dontFragment] : [.fua]
    case .write, .trim: known = .fua
    case .writeZeroes: known = [.fua, .noHole, .fastZero]
    case .flush: known = .fua
    case .cache: known = .fua
    case .blockStatus:
      guard agreement.hasAllocation else { return (.invalid, "no meta context was chosen") }
      known = [.fua, .requestOne]
    default: return (.invalid, "unknown command \(request.command.rawValue)")
    }
    guard request.flags.subtracting(known).isEmpty else {
      return (.invalid, "unknown flags for this command")
    }
    if request.command == .flush {
      guard request.offset == 0, request.length == 0 else {
        return (.invalid, "a flush of a part")
      }
      return nil
    }
    let isWriting =
      request.command == .write || request.command == .trim || request.command == .writeZeroes
    if isWriting, isReadOnly { return (.notPermitted, "the export is read-only") }
    if request.command == .trim, !device.limits.supportsDiscard {
      return (.invalid, "the device can't give space up")
    }
    if request.command == .read, request.length > limits.request {
      return (.invalid, "more than \(limits.request) bytes at once")
    }
    guard request.length > 0 else { return (.invalid, "nothing is asked for") }
    let (end, overflow) = request.offset.addingReportingOverflow(UInt64(request.length))
    guard !overflow, end <= device.byteCount else {
      let isFull = request.command == .write || request.command == .writeZeroes
      return (isFull ? .noSpace : .invalid, "beyond the end of the export")
    }
    if request.flags.contains(.fastZero), !device.limits.supportsWriteZeroes {
      return (.notSupported, "zeroing would be no faster than writing")
    }
    return nil
  }
}
