import BlockIO
import NIOCore
import NIOPosix

/// One connection, from its handshake to its end. Belongs to the session's event loop.
final class ClientLine {
  let number: RequestLedger.Connection
  let channel: any Channel
  /// nil when it is over.
  var handshake: ClientHandshake?
  /// When it was seen to go on, last.
  private(set) var progress: NIODeadline

  /// nil until the handshake is over.
  private var reader: AnswerReader?
  private let receiving: NIOLoopBoundBox<Int>
  private var queue = SendQueue()
  /// NIO has something to send: what comes next waits for it.
  private var isHandedOver = false
  private let isEncrypted: Bool
  /// nil: everything has to go through NIO, to be encrypted.
  private var socket: DirectSocket?

  /// How much of what is to be encrypted is copied and handed over at a time.
  private static let portion = 64 << 10
  /// What is handed over for NIO to wait until the socket takes more; a page, so that what follows
  /// still comes in whole ones.
  private static let waitingPortion = 4096

  init(
    number: RequestLedger.Connection, channel: any Channel, handshake: ClientHandshake,
    isEncrypted: Bool
  ) {
    self.number = number
    self.channel = channel
    self.handshake = handshake
    progress = channel.eventLoop.now
    self.isEncrypted = isEncrypted
    receiving = NIOLoopBoundBox(ReceiveSize.usual, eventLoop: channel.eventLoop)
  }

  func noteProgress() { progress = channel.eventLoop.now }

  /// The handshake is over.
  func use(_ export: ExportInfo) {
    handshake = nil
    reader = AnswerReader(export)
    guard !isEncrypted, let socket = DirectSocket(channel) else { return }
    self.socket = socket
    if channel.remoteAddress?.protocol == .unix { socket.enlarge() }
    // Refused by a closed channel only.
    try? channel.syncOptions?.setOption(.recvAllocator, value: ReceiveSize(bytes: receiving))
  }

  /// Says goodbye and closes. Within a request the server would take that for data.
  func leave() {
    if handshake == nil, queue.isEmpty {
      var goodbye = ByteBuffer()
      RequestHeader(.disconnect, cookie: 0).write(to: &goodbye)
      channel.writeAndFlush(goodbye, promise: nil)
    }
    close()
  }

  /// Gives up everything: nothing refers to the memory of requests any more.
  func close() {
    queue = SendQueue()
    reader = nil
    channel.close(promise: nil)
  }

  // MARK: Sending

  /// Puts a request to the others that go with the next ``flush()``.
  func append(_ request: ClientRequest, _ number: RequestLedger.Number) {
    queue.append(request, number)
  }

  /// Sends everything that was appended, now or when the socket takes it.
  func flush() {
    guard !isHandedOver, !queue.isEmpty else { return }
    if let socket {
      let sent = socket.send(queue)
      if sent > 0 { advance(by: sent) }
    }
    if !queue.isEmpty { handOver() }
  }

  private func handOver() {
    let bytes = queue.copy(first: socket == nil ? Self.portion : Self.waitingPortion)
    advance(by: bytes.readableBytes)
    isHandedOver = true
    channel.writeAndFlush(bytes).assumeIsolated().whenSuccess {
      self.isHandedOver = false
      self.noteProgress()
      // In a turn of its own: NIO may have sent it there and then.
      if !self.queue.isEmpty {
        self.channel.eventLoop.assumeIsolated().execute { self.flush() }
      }
    }
  }

  private func advance(by count: Int) {
    noteProgress()
    // An answer to what isn't sent yet would be a lie.
    queue.advance(by: count) { reader?.expect($0, $1) }
    setReceiveSize()
  }

  // MARK: Receiving

  /// Takes what NIO has read, and straight from the socket as many of the data that belong to it
  /// as have come.
  func take(
    _ bytes: ByteBuffer, finish: (RequestLedger.Number, ClientAnswer) -> Void
  ) throws(LineFailure) {
    noteProgress()
    try reader?.take(bytes, finish: finish)
    if let socket {
      while let (memory, range) = reader?.awaited {
        let count = socket.receive(into: memory, range)
        guard count > 0 else { break }
        try reader?.placed(count, finish: finish)
      }
    }
    setReceiveSize()
  }

  private func setReceiveSize() {
    receiving.value = reader?.expectsBulk == true ? ReceiveSize.little : ReceiveSize.usual
  }
}

/// Hands what comes on a connection to the session.
final class ClientInlet: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let session: ClientSession
  private let number: RequestLedger.Connection

  init(_ session: ClientSession, _ number: RequestLedger.Connection) {
    self.session = session
    self.number = number
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    session.received(unwrapInboundIn(data), on: number)
  }

  func channelInactive(context: ChannelHandlerContext) {
    session.lose(number, LineFailure("the server closed the connection"))
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    session.lose(number, LineFailure(describe(error)))
  }
}
