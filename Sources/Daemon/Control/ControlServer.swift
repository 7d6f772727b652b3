import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle
import SystemPackage

/// What does the requests of the control socket.
protocol ControlHandler: Sendable {
  /// Does a request. Not called again for a connection before it has returned. The task is cancelled
  /// when the client goes: nobody waits any more; what was begun must go on all the same.
  ///
  /// - Parameter progress: may be called while it goes on.
  func handle(
    _ request: ControlRequest, progress: @escaping ControlProgress
  ) async throws(ControlFailure) -> ControlAnswer
}

/// Tells the client how far a request is; waits while the client doesn't read.
typealias ControlProgress =
  @Sendable (_ done: UInt64, _ total: UInt64, _ text: String) async -> Void

/// The control socket: who may use it, how many at once, and lines in and out.
struct ControlServer {
  /// The most connections at once; those that come then are closed.
  static let maximumConnections = 64

  typealias Connection = NIOAsyncChannel<ByteBuffer, ByteBuffer>
  typealias Listener = NIOAsyncChannel<Connection?, Never>

  private let listener: Listener
  private let logger: Logger
  private let connections = ConnectionCount()

  /// Listens at `path`: a socket only its owner can open, in a folder only its owner can enter.
  ///
  /// - Parameter inherited: a listening socket that was handed over at the start, instead.
  init(
    path: String, inherited: Int32?, group: any EventLoopGroup, logger: Logger
  ) async throws(ControlFailure) {
    self.logger = logger
    let bootstrap = ServerBootstrap(group: group)
    do {
      if let inherited {
        listener = try await bootstrap.bind(inherited) { Self.accept($0, logger) }
      } else {
        if let other = try? await ClientBootstrap(group: group)
          .connect(unixDomainSocketPath: path).get()
        {
          other.close(promise: nil)
          throw ControlFailure.refused("--socket: another daemon listens at '\(path)'")
        }
        try ControlSocketFile.prepare(path)
        listener = try await bootstrap.bind(unixDomainSocketPath: path) { Self.accept($0, logger) }
        try ControlSocketFile.restrict(path)
      }
    } catch let failure as ControlFailure {
      throw failure
    } catch {
      throw .refused("--socket: '\(path)': \(error)")
    }
  }

  /// A connection, or nil if its other end is somebody else's.
  private static func accept(
    _ channel: any Channel, _ logger: Logger
  ) -> EventLoopFuture<Connection?> {
    PeerCredentials.of(channel).flatMapThrowing { peer in
      guard peer.isTrusted else {
        logger.warning(
          "a connection to the control socket was refused",
          metadata: ["uid": "\(peer.uid)", "pid": "\(peer.pid)"])
        channel.close(promise: nil)
        return nil
      }
      let decoder = ByteToMessageHandler(LineDecoder())
      try channel.pipeline.syncOperations.addHandler(decoder)
      return try Connection(wrappingChannelSynchronously: channel)
    }
  }

  /// Takes connections until the task is cancelled, then closes them all.
  func run(_ handler: some ControlHandler) async throws {
    try await withThrowingDiscardingTaskGroup { group in
      try await listener.executeThenClose { inbound in
        for try await connection in inbound {
          guard let connection else { continue }
          guard connections.enter(below: Self.maximumConnections) else {
            logger.warning("too many connections to the control socket: one was closed")
            connection.channel.close(promise: nil)
            continue
          }
          group.addTask {
            defer { connections.leave() }
            await serve(connection, handler)
          }
        }
      }
    }
  }

  private func serve(_ connection: Connection, _ handler: some ControlHandler) async {
    do {
      try await connection.executeThenClose { inbound, outbound in
        for try await line in inbound {
          let request: ControlRequest
          do throws(ControlFailure) {
            request = try ControlWire.decodeRequest(line)
          } catch {
            logger.warning(
              "a line on the control socket isn't a request",
              metadata: [
                "reason": "\(error)"
              ])
            try await outbound.write(ControlWire.encode(.failed(failure: error)))
            return
          }
          let reply = await answer(request, handler, outbound, connection.channel)
          try await outbound.write(ControlWire.encode(reply))
        }
      }
    } catch is LineTooLong {
      logger.warning("a line on the control socket is longer than \(ControlLine.maximum) bytes")
    } catch {
      logger.debug("a connection to the control socket ended", metadata: ["reason": "\(error)"])
    }
  }

  private func answer(
    _ request: ControlRequest, _ handler: some ControlHandler,
    _ outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>, _ channel: any Channel
  ) async -> ControlReply {
    let task = Task { () async -> ControlReply in
      do throws(ControlFailure) {
        let answer = try await handler.handle(request) { done, total, text in
          try? await outbound.write(
            ControlWire.encode(.progress(done: done, total: total, text: text)))
        }
        return .done(answer: answer)
      } catch {
        return .failed(failure: error)
      }
    }
    // Nobody waits any more when the client has gone.
    channel.closeFuture.whenComplete { _ in task.cancel() }
    return await withTaskCancellationHandler {
      await task.value
    } onCancel: {
      task.cancel()
    }
  }
}

/// Who is at the other end of a Unix socket: `struct ucred` of Linux.
struct PeerCredentials: Sendable {
  var pid: Int32 = 0
  var uid: UInt32 = .max
  var gid: UInt32 = .max

  /// Whether it is root or the daemon's own user.
  var isTrusted: Bool { uid == 0 || uid == currentUser }

  static func of(_ channel: any Channel) -> EventLoopFuture<PeerCredentials> {
    #if os(Linux)
      guard let options = channel as? any SocketOptionProvider else {
        return channel.eventLoop.makeSucceededFuture(PeerCredentials())
      }
      // The layout is that of the kernel's `struct ucred`: three 32-bit numbers.
      return options.unsafeGetSocketOption(level: .socket, name: .init(rawValue: 17))
    #else
      // The folder keeps others out.
      return channel.eventLoop.makeSucceededFuture(
        PeerCredentials(pid: 0, uid: currentUser, gid: 0))
    #endif
  }
}
