import BlockIO
import Logging
import NIOCore

// The requests of a connection.

extension Connection {
  // MARK: Requests

  var isSaturated: Bool {
    switch phase {
    case .negotiating: return false
    case .closing, .leaving, .closed: return true
    case .transmitting: break
    }
    // The rest of a write is always let in: only then it ends.
    if begun != nil { return false }
    return inFlight >= limits.requestsPerConnection || bytesInFlight >= limits.bytesPerConnection
      || isWaitingForBytes || !channel.isWritable
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
  func parse() {
    guard !isParsing else { return }
    isParsing = true
    defer { isParsing = false }
    isWaitingForBytes = false
    var hasStarted = false
    while case .transmitting(let agreement, let export) = phase, !isSaturated {
      if begun == nil {
        guard let request = nextRequest() else { break }
        if request.command == .disconnect { return finish() }
        begin(request)
      }
      receiveData()
      guard let (request, data) = begun, data.isComplete else { break }
      begun = nil
      hasStarted = true
      start(request, data, agreement, export)
    }
    // Not `clear()`: what was received into is NIO's, too, which wants to use it again.
    if input.readableBytes == 0 { input = ByteBuffer() } else { input.discardReadBytes() }
    let isPartThere = begun != nil || (input.readableBytes > 0 && !isSaturated)
    partSince = isPartThere ? (hasStarted ? loop.now : partSince ?? loop.now) : nil
  }

  private func begin(_ request: RequestHeader) {
    take(weight(of: request))
    let data = ReceivedData(wanted: request.command == .write ? Int(request.length) : 0)
    // What follows is probably of the same kind.
    receiveSize.value = data.lasting == nil ? ReceiveSize.usual : ReceiveSize.little
    begun = (request, data)
  }

  /// Takes what has come of the data of the request that has begun.
  private func receiveData() {
    begun?.data.take(from: &input)
    if let socket { begun?.data.receive(from: socket) }
  }

  /// The next request, as soon as its head is there and it may run.
  private func nextRequest() -> RequestHeader? {
    guard input.readableBytes >= RequestHeader.size else { return nil }
    let start = input.readerIndex
    guard let request = RequestHeader(&input) else {
      close("something that is no request")
      return nil
    }
    if request.command == .write, request.length > limits.request {
      // There is no skipping that much.
      close("a write of \(request.length) bytes; the most is \(limits.request)")
      return nil
    }
    guard hasBytes(for: request) else {
      input.moveReaderIndex(to: start)
      isWaitingForBytes = true
      return nil
    }
    return request
  }

  /// Whether the request may be under way beside those of all connections. Who has nothing under
  /// way may always have a share, so that those who don't take their answers, or don't send what
  /// they have begun, never keep it from everyone else.
  private func hasBytes(for request: RequestHeader) -> Bool {
    !server.budget.isSpent || weight(of: request) == 0
      || (bytesInFlight == 0 && weight(of: request) <= limits.share)
  }

  /// The bytes of memory that a request needs while it is under way; what is too large is refused.
  private func weight(of request: RequestHeader) -> Int {
    let hasData = request.command == .read || request.command == .write
    return hasData && request.length <= limits.request ? Int(request.length) : 0
  }

  private func take(_ weight: Int) {
    bytesInFlight += weight
    server.budget.take(weight)
  }

  private func giveBack(_ weight: Int) {
    bytesInFlight -= weight
    if server.budget.giveBack(weight) { server.resumeAll() }
  }

  /// The client has taken its answers, or never will.
  func releaseOwed() {
    let bytes = bytesOwed
    bytesOwed = 0
    if bytes > 0 { giveBack(bytes) }
  }

  /// Nothing of what has come will be looked at.
  func dropInput() {
    input = ByteBuffer()
    partSince = nil
    guard let (request, _) = begun else { return }
    begun = nil
    giveBack(weight(of: request))
  }

  private func start(
    _ request: RequestHeader, _ data: ReceivedData, _ agreement: Agreement, _ export: Export
  ) {
    inFlight += 1
    export.counters.begin()
    let began = loop.now
    let answers = AnswerWriter(cookie: request.cookie, isStructured: agreement.isStructured)
    if let (error, reason) = export.refusal(of: request, agreement, limits) {
      answer { answers.write(error, reason, to: &$0) }
      return end(request, export, began, hasFailed: true)
    }
    if serveNow(request, data, answers, export) {
      return end(request, export, began, hasFailed: false)
    }
    // What the device starts is to run where it is; only the answer is this connection's.
    Task.immediate(executorPreference: export.loop) {
      let hasFailed = await self.serve(request, data, answers, export)
      self.end(request, export, began, hasFailed: hasFailed)
    }
  }

  private func end(
    _ request: RequestHeader, _ export: Export, _ began: LoopInstant, hasFailed: Bool
  ) {
    let nanoseconds = UInt64(max(0, began.duration(to: loop.now).nanoseconds))
    export.counters.end(
      request.kind, bytes: UInt64(request.length), nanoseconds: nanoseconds, hasFailed: hasFailed)
    end(weight(of: request))
  }

  private func end(_ weight: Int) {
    inFlight -= 1
    let hasGone = if case .closed = phase { true } else { false }
    if hasGone || channel.isWritable { giveBack(weight) } else { bytesOwed += weight }
    switch phase {
    case .closed: if inFlight == 0 { forget() }
    case .closing: closeWhenIdle()
    case .negotiating, .leaving: break
    case .transmitting:
      if !isParsing { resume() }
      planFlush()
    }
  }

  /// Does a request and answers it, if nothing has to be waited for: without a task, and without
  /// leaving this thread, wherever the device is.
  private func serveNow(
    _ request: RequestHeader, _ data: ReceivedData, _ answers: AnswerWriter, _ export: Export
  ) -> Bool {
    switch request.command {
    case .read where request.length >= Self.copiedAnswer:
      guard let content = export.readNow(request.bytes) else { return false }
      answer(with: content) { answers.writeReadHead(request, to: &$0) }
    case .read:
      let start = output.writerIndex
      answers.writeReadHead(request, to: &output)
      guard export.readNow(request.bytes, appendingTo: &output) else {
        output.moveWriterIndex(to: start)
        return false
      }
      sendFullOutput()
    case .write:
      let isDurable = request.flags.contains(.fua)
      guard export.writeNow(data, at: request.offset, isDurable: isDurable) else { return false }
      answer { answers.writeDone(to: &$0) }
    default: return false
    }
    return true
  }

  /// Does a request and answers it; true if it failed.
  private func serve(
    _ request: RequestHeader, _ data: ReceivedData, _ answers: AnswerWriter, _ export: Export
  ) async -> Bool {
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
    if request.length >= Self.copiedAnswer, let content = try await export.readWhole(request.bytes)
    {
      return answer(with: content) { answers.writeReadHead(request, to: &$0) }
    }
    var content = ByteBuffer()
    content.reserveCapacity(answers.readHead + Int(request.length))
    answers.writeReadHead(request, to: &content)
    try await export.read(request.bytes, appendingTo: &content)
    answer { $0.writeBuffer(&content) }
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
