public import BlockIO
public import Logging
import NIOCore
import NIOPosix
import Synchronization

/// Where a server listens.
public enum ListenAddress: Hashable, Sendable, CustomStringConvertible {
  /// A Unix socket; a socket that nobody listens on any more is replaced.
  case unix(path: String)
  /// An address and a port; port 0: any that is free.
  case tcp(host: String, port: Int)

  /// As it is written in an NBD URI.
  public var description: String {
    switch self {
    case .unix(let path): "nbd+unix:///?socket=\(path)"
    case .tcp(let host, let port): "nbd://\(host.contains(":") ? "[\(host)]" : host):\(port)"
    }
  }
}

/// Why something can't be exported, or listened on.
public struct ServerError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What, and why.
  public let description: String

  init(_ description: String) { self.description = description }
}

/// Serves block devices by the NBD protocol: fixed newstyle, structured replies, `base:allocation`,
/// TLS.
///
/// Connections are spread over the network's threads. What a device can do without waiting is done
/// on the connection's thread, everything else where the device is.
///
/// A request is answered when it is done, not before. A flush covers everything that was answered
/// before it came, on whatever connection.
public actor NBDServer {
  /// The threads it runs on; devices are on the first one's loop.
  public nonisolated let network: NetworkLoop
  /// The bounds.
  public nonisolated let limits: ServerLimits

  nonisolated let tls: ServerTLS?
  nonisolated let logger: Logger
  nonisolated let budget: ByteQuota
  nonisolated let registry = ServerRegistry()
  private let pool: PagePool
  private var listeners: [any Channel] = []

  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    network.ioLoop.asUnownedSerialExecutor()
  }

  /// A server without exports, listening nowhere yet.
  ///
  /// - Parameters:
  ///   - network: the threads it runs on; its devices are on the first one.
  ///   - limits: the bounds within which it serves.
  ///   - tls: its certificate; nil: in plain only.
  ///   - reserveBytes: memory for what is on its way between clients and devices; pieces of 1 MiB
  ///     come from it, and requests wait for them.
  ///   - logger: told who comes and goes, and why.
  /// - Throws: when there is no memory for the reserve.
  public init(
    on network: NetworkLoop, limits: ServerLimits = ServerLimits(), tls: ServerTLS? = nil,
    reserveBytes: Int = 16 << 20, logger: Logger = Logger(label: "nbd")
  ) throws(IOFailure) {
    self.network = network
    self.limits = limits
    self.tls = tls
    self.logger = logger
    budget = ByteQuota(limit: limits.bytes)
    // A piece that begins and ends within sectors is one sector longer.
    let piece = Int(Export.pieceBytes) / PagePool.pageSize + 1
    pool = try PagePool(pageCount: max(piece, reserveBytes / PagePool.pageSize))
  }

  // MARK: Exports

  /// Makes a device available under a name.
  ///
  /// - Parameters:
  ///   - device: on this server's loop.
  ///   - name: up to 4096 bytes.
  ///   - summary: a line for people who list exports.
  ///   - isReadOnly: whether clients may only read.
  @discardableResult
  public func export(
    _ device: any BlockDevice, as name: String, summary: String = "", isReadOnly: Bool = false
  ) throws(ServerError) -> Export {
    guard name.utf8.count <= WireLimits.name else {
      throw ServerError("the name of an export has at most \(WireLimits.name) bytes")
    }
    let export = Export(
      name, device, summary: String(summary.prefix(1000)), isReadOnly: isReadOnly, pool: pool,
      on: network.ioLoop)
    try registry.add(export)
    return export
  }

  /// Takes an export away: new clients don't find it, those there are answered what they have asked
  /// for, and disconnected.
  public func remove(_ export: Export) async {
    registry.remove(export)
    await drain(registry.connections(to: export))
  }

  /// The exports by name.
  public var exportNames: [String] { registry.exports.keys.sorted() }

  /// How many clients use an export.
  public func connectionCount(of export: Export) -> Int {
    registry.connections(to: export).count
  }

  nonisolated var catalogue: ServerNegotiation.Catalogue {
    .init(exports: registry.exports.mapValues { $0.offer(maximum: limits.request) })
  }

  // MARK: Listening

  /// Takes clients from there on.
  ///
  /// - Returns: where it listens: with the port, if any was wanted.
  @discardableResult
  public func listen(on address: ListenAddress) async throws(ServerError) -> ListenAddress {
    do {
      let channel: any Channel
      switch address {
      case .unix(let path):
        channel = try await bootstrap.bind(
          unixDomainSocketPath: path, cleanupExistingSocketFile: true
        ).get()
      case .tcp(let host, let port):
        channel =
          try await bootstrap
          .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
          .bind(host: host, port: port).get()
      }
      listeners.append(channel)
      guard case .tcp(let host, _) = address, let port = channel.localAddress?.port else {
        return address
      }
      return .tcp(host: host, port: port)
    } catch {
      throw ServerError("cannot listen on \(address): \(describe(error))")
    }
  }

  /// Takes clients from a socket that somebody else – systemd – listens on already.
  ///
  /// - Parameter descriptor: the socket; it belongs to the server from now on.
  /// - Returns: where that is.
  @discardableResult
  public func listen(onInherited descriptor: CInt) async throws(ServerError) -> ListenAddress {
    do {
      let channel = try await bootstrap.withBoundSocket(descriptor).get()
      listeners.append(channel)
      let address = channel.localAddress
      guard let host = address?.ipAddress, let port = address?.port else {
        return .unix(path: address?.pathname ?? "")
      }
      return .tcp(host: host, port: port)
    } catch {
      throw ServerError(
        "cannot listen on the socket \(descriptor) that was handed over: \(describe(error))")
    }
  }

  private var bootstrap: ServerBootstrap {
    ServerBootstrap(group: network.eventLoop, childGroup: network.group)
      .serverChannelOption(.backlog, value: 128)
      .childChannelOption(.maxMessagesPerRead, value: 4)
      .childChannelOption(
        .recvAllocator,
        value: AdaptiveRecvByteBufferAllocator(minimum: 4096, initial: 65536, maximum: 1 << 18)
      )
      .childChannelOption(
        .writeBufferWaterMark, value: .init(low: 1 << 20, high: 4 << 20)
      )
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try self.accept(channel) }
      }
  }

  /// On the channel's thread.
  private nonisolated func accept(_ channel: any Channel) throws {
    let peer = channel.remoteAddress.flatMap { address in
      address.ipAddress.map { "\($0):\(address.port ?? 0)" }
    }
    if peer == nil {
      // As much as the system allows: an answer of 256 KiB in one piece. TCP finds its own size.
      try channel.syncOptions?.setOption(.socketOption(.so_sndbuf), value: 4 << 20)
    } else {
      try channel.syncOptions?.setOption(.tcpOption(.tcp_nodelay), value: 1)
    }
    let connection = Connection(
      channel, self, peer: peer ?? "unix", on: network.ioLoop(of: channel.eventLoop))
    if let count = registry.add(connection, limit: limits.connections) {
      logger.notice(
        "connection refused: there are \(count)", metadata: ["peer": "\(peer ?? "unix")"])
      throw ChannelError.inappropriateOperationForState
    }
    network.note(1, on: connection.loop)
    try channel.pipeline.syncOperations.addHandler(ConnectionHandler(connection))
  }

  // MARK: Connections

  nonisolated func forget(_ connection: Connection) {
    registry.remove(connection)
    network.note(-1, on: connection.loop)
  }

  /// There is room for requests again.
  nonisolated func resumeAll() {
    for connection in registry.connections() {
      connection.channel.eventLoop.execute {
        if connection.loop.isCurrent { connection.assumeIsolated { $0.resume() } }
      }
    }
  }

  private func drain(_ leaving: [Connection]) async {
    await withDiscardingTaskGroup { group in
      for connection in leaving {
        group.addTask(executorPreference: connection.loop) { [limits] in
          await connection.drain(atMost: limits.drain)
        }
      }
    }
  }

  /// Takes no client any more, answers what has been asked for, and disconnects everyone.
  public func shutDown() async {
    registry.close()
    let closing = listeners
    listeners = []
    for listener in closing { try? await listener.close().get() }
    await drain(registry.connections())
  }
}

/// Bytes under way, of all connections together.
final class ByteQuota: Sendable {
  private let count = Atomic<Int>(0)
  private let limit: Int

  init(limit: Int) { self.limit = limit }

  var taken: Int { count.load(ordering: .relaxed) }

  var isSpent: Bool { taken >= limit }

  func take(_ bytes: Int) { count.wrappingAdd(bytes, ordering: .relaxed) }

  /// - Returns: whether it was spent and isn't any more.
  func giveBack(_ bytes: Int) -> Bool {
    let (old, new) = count.wrappingSubtract(bytes, ordering: .relaxed)
    return old >= limit && new < limit
  }
}
