import BlockIO
import NIOCore

// The answers of a connection: past NIO as long as the socket takes them.

extension Connection {
  /// More than that is sent at once. It has to be sent rather than only handed over: with TLS the
  /// channel counts as writable until then.
  private static let outputLimit = 256 << 10
  /// As much memory is kept for the next answers.
  private static let keptOutput = 64 << 10
  /// Smaller contents are copied behind the other answers: that costs less than a buffer more.
  static let copiedAnswer = 32 << 10

  /// Puts an answer behind the others; they go out together.
  func answer(_ write: (inout ByteBuffer) -> Void) {
    if case .closed = phase { return }
    write(&output)
    sendFullOutput()
  }

  func sendFullOutput() {
    if output.readableBytes >= Self.outputLimit { sendOutput() }
  }

  /// As above, with a content to follow; goes out at once, while the processor has it in its cache.
  func answer(with content: ByteBuffer, _ write: (inout ByteBuffer) -> Void) {
    if case .closed = phase { return }
    write(&output)
    var content = content
    sendDirectly(&content)
    if output.readableBytes > 0 { handOver(output) }
    if content.readableBytes > 0 { handOver(content) }
    renewOutput()
  }

  func planFlush() {
    guard output.readableBytes > 0, !isReceiving, !isFlushPlanned else { return }
    isFlushPlanned = true
    channel.eventLoop.execute {
      if self.loop.isCurrent { self.assumeIsolated { $0.flushOutput() } }
    }
  }

  func flushOutput() {
    isFlushPlanned = false
    sendOutput()
  }

  private func sendOutput() {
    guard output.readableBytes > 0 else { return }
    var nothing = ByteBuffer()
    sendDirectly(&nothing)
    if output.readableBytes > 0 { handOver(output) }
    renewOutput()
  }

  /// Sends what the socket takes now of the answers and the content behind them, unless NIO has
  /// something to send before.
  private func sendDirectly(_ content: inout ByteBuffer) {
    guard handedOver == 0, let socket else { return }
    var sent = socket.send(output, content)
    let head = min(sent, output.readableBytes)
    output.moveReaderIndex(forwardBy: head)
    sent -= head
    content.moveReaderIndex(forwardBy: sent)
  }

  /// Has NIO send it, as soon as the client takes it.
  func handOver(_ bytes: ByteBuffer) {
    handedOver += 1
    channel.writeAndFlush(bytes).whenComplete { _ in
      if self.loop.isCurrent { self.assumeIsolated { $0.handedOver -= 1 } }
    }
  }

  /// Most often all has been taken by now, and the same memory does for the next answers.
  private func renewOutput() {
    if output.capacity <= Self.keptOutput { output.clear() } else { output = ByteBuffer() }
  }
}
