import BlockIO
import NIOCore
import NIOTLS

/// What stands between a channel and its connection: both are on the same thread.
final class ConnectionHandler: ChannelDuplexHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let connection: Connection

  init(_ connection: Connection) { self.connection = connection }

  /// Calls the connection, as long as its loop runs: the channel's, which hosts it, ends a little later
  /// and may have something to tell even then.
  @discardableResult
  private func tell<R: Sendable>(_ body: (isolated Connection) -> R) -> R? {
    connection.loop.isCurrent ? connection.assumeIsolated(body) : nil
  }

  func channelActive(context: ChannelHandlerContext) {
    tell { $0.begin() }
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let bytes = unwrapInboundIn(data)
    tell { $0.receive(bytes) }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    tell {
      $0.receivedAll()
      $0.linger()
    }
  }

  func read(context: ChannelHandlerContext) {
    if tell({ $0.mayRead() }) == true { context.read() }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    tell { $0.writabilityChanged() }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .handshakeCompleted? = event as? TLSUserEvent {
      tell { $0.becameSecure() }
    }
    context.fireUserInboundEventTriggered(event)
  }

  func channelInactive(context: ChannelHandlerContext) {
    tell { $0.ended() }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    tell { $0.failed(error) }
  }
}
