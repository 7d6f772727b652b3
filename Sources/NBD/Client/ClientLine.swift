import BlockIO
import NIOCore

/// One connection, from its handshake to its end. Belongs to the session's event loop.
final class ClientLine {
  let number: RequestLedger.Connection
  let channel: any Channel
  /// nil when it is over.
  var handshake: ClientHandshake?
  /// nil until it is.
  var reader: AnswerReader?
  /// When it was seen to go on, last.
  private(set) var progress: NIODeadline

  private var out = ByteBuffer()
  /// Large buffers that have been sent, for those to come: new memory would be fetched from the
  /// system, page by page, for every write.
  private var spare: [ByteBuffer] = []

  /// Up to that size requests are put together into one buffer.
  private static let batch = 64 << 10
  private static let spares = 8
  private static let largestSpare = 2 << 20

  init(number: RequestLedger.Connection, channel: any Channel, handshake: ClientHandshake) {
    self.number = number
    self.channel = channel
    self.handshake = handshake
    progress = channel.eventLoop.now
  }

  func noteProgress() { progress = channel.eventLoop.now }

  /// Puts a request to the others that go with the next ``flush()``.
  func append(_ request: ClientRequest, _ number: RequestLedger.Number) {
    reader?.expect(number, request)
    var data: IOBuffer?
    if case .write(let buffer, _) = request.operation { data = buffer }
    let size = RequestHeader.size + (data == nil ? 0 : request.payload)
    if out.readableBytes > 0, out.readableBytes + size > Self.batch { writeOut() }
    if out.readableBytes == 0 { out = buffer(of: size) }
    RequestHeader(
      request.command, flags: request.flags, cookie: number, offset: request.bytes.lowerBound,
      length: UInt32(request.bytes.count)
    ).write(to: &out)
    // The only copy of data that are written.
    _ = data?.withBytes { out.writeBytes($0.extracting(first: request.payload)) }
  }

  /// Sends everything that was appended.
  func flush() {
    writeOut()
    channel.flush()
  }

  private func writeOut() {
    guard out.readableBytes > 0 else { return }
    let sent = out
    out = ByteBuffer()
    channel.write(sent).assumeIsolated().whenSuccess {
      self.noteProgress()
      let isUseful = sent.capacity > Self.batch && sent.capacity <= Self.largestSpare
      if isUseful, self.spare.count < Self.spares { self.spare.append(sent) }
    }
  }

  private func buffer(of size: Int) -> ByteBuffer {
    guard size > Self.batch, let index = spare.lastIndex(where: { $0.capacity >= size }) else {
      return channel.allocator.buffer(capacity: size)
    }
    var buffer = spare.remove(at: index)
    // Nobody else has it any more: its memory stays.
    buffer.clear()
    return buffer
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
