import NIOCore
import NIOTLS

/// What stands between a channel and its connection: both are on the same thread.
final class ConnectionHandler: ChannelDuplexHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let connection: Connection

  init(_ connection: Connection) { self.connection = connection }

  func channelActive(context: ChannelHandlerContext) {
    connection.assumeIsolated { $0.begin() }
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let bytes = unwrapInboundIn(data)
    connection.assumeIsolated { $0.receive(bytes) }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    connection.assumeIsolated { $0.receivedAll() }
  }

  func read(context: ChannelHandlerContext) {
    if connection.assumeIsolated({ $0.mayRead() }) { context.read() }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    connection.assumeIsolated { $0.writabilityChanged() }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .handshakeCompleted? = event as? TLSUserEvent {
      connection.assumeIsolated { $0.becameSecure() }
    }
    context.fireUserInboundEventTriggered(event)
  }

  func channelInactive(context: ChannelHandlerContext) {
    connection.assumeIsolated { $0.ended() }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    connection.assumeIsolated { $0.failed(error) }
  }
}
