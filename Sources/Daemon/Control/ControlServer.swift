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
///
/// A connection holds a few lines at most: no more are read from it while it has a request under
/// way, and whoever doesn't read what it is sent is disconnected.
struct ControlServer {
  typealias Channels = NIOAsyncChannel<ByteBuffer, Never>
  typealias Listener = NIOAsyncChannel<Channels?, Never>

  private let listener: Listener
  private let logger: Logger
  private let limits: ControlLimits

  /// Listens at `path`: a socket only its owner can open, in a folder only its owner can enter.
  ///
  /// - Parameter inherited: a listening socket that was handed over at the start, instead.
  init(
    path: String, inherited: Int32?, limits: ControlLimits = ControlLimits(),
    group: any EventLoopGroup, logger: Logger
  ) async throws(ControlFailure) {
    self.logger = logger
    self.limits = limits
    let bootstrap = ServerBootstrap(group: group)
    do {
      if let inherited {
        listener = try await bootstrap.bind(inherited) { Self.accept($0, logger) }
      } else {
        if await UnixSocket.isListenedAt(path, group) {
          throw ControlFailure.refused("--socket: another daemon listens at '\(path)'")
        }
        try ControlSocketFile.prepare(path)
        listener = try await bootstrap.bind(unixDomainSocketPath: path) { Self.accept($0, logger) }
        try ControlSocketFile.restrict(path)
      }
    } catch let failure as ControlFailure {
      throw failure
    } catch {
      throw .refused("--socket: '\(path)': \(error.plainReason)")
    }
  }

  /// A connection, or nil if its other end is somebody else's.
  private static func accept(
    _ channel: any Channel, _ logger: Logger
  ) -> EventLoopFuture<Channels?> {
    PeerCredentials.of(channel).flatMapThrowing { peer in
      guard peer.isTrusted else {
        logger.warning(
          "a connection to the control socket was refused",
          metadata: ["uid": "\(peer.uid)", "pid": "\(peer.pid)"])
        channel.close(promise: nil)
        return nil
      }
      let decoder = ByteToMessageHandler(LineDecoder(maximum: ControlLine.maximum))
      try channel.pipeline.syncOperations.addHandler(decoder)
      return try Channels(
        wrappingChannelSynchronously: channel,
        configuration: .init(backPressureStrategy: .init(lowWatermark: 1, highWatermark: 2)))
    }
  }

  /// Takes connections until the task is cancelled, then closes them all.
  func run(_ handler: some ControlHandler) async throws {
    let connections = ControlConnections(limits)
    try await withThrowingDiscardingTaskGroup { group in
      try await listener.executeThenClose { inbound in
        for try await channels in inbound {
          guard let channels else { continue }
          guard let number = connections.enter(channels.channel) else {
            logger.warning("too many connections to the control socket: one was refused")
            Self.refuse(channels.channel)
            continue
          }
          group.addTask {
            defer { connections.leave(number) }
            let connection = ControlConnection(
              number: number, connections: connections, limits: limits,
              channel: channels.channel, handler: handler, logger: logger)
            await connection.serve(channels)
          }
        }
      }
    }
  }

  /// Says that there is no room; a socket that is new takes that at once.
  private static func refuse(_ channel: any Channel) {
    let failure = ControlFailure.refused(
      "too many requests are under way at the control socket; try again later")
    channel.writeAndFlush(ControlWire.encode(.failed(failure: failure)))
      .whenComplete { _ in channel.close(promise: nil) }
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
