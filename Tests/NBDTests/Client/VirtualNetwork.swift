import BlockIO
import BlockIOTesting
import NIOCore
import NIOEmbedded
import SystemPackage

@testable import NBD

/// A server, the way to it and the client's side of it, all on the calling thread and in virtual
/// time: nothing happens but what the test says, and the same each time.
final class VirtualNetwork {
  /// A request that has come, and is answered when the test says so.
  struct Arrival {
    let connection: Int
    let request: RequestHeader
    let data: ByteBuffer
  }

  private let loop = EmbeddedEventLoop()
  /// Whether connections are accepted.
  var isUp = true
  /// Whether who is accepted is talked to.
  var isTalking = true
  /// When somebody tried to connect.
  private(set) var attempts: [NIODeadline] = []
  private var servers: [Int: EmbeddedChannel] = [:]
  private let arrived = Locked<[Arrival]>([])

  /// What has come on connections that are still there, and isn't answered yet, in order.
  var arrivals: [Arrival] {
    arrived.withLock { $0 }.filter { servers[$0.connection]?.isActive == true }
  }

  /// The connections that are there.
  var connections: [Int] { servers.filter { $0.value.isActive }.keys.sorted() }

  /// A session with that server, its first connection standing.
  func open(
    _ options: NBDClientOptions = .init(), several: Bool = false
  ) throws -> ClientSession {
    let session = try ClientSession(
      NBDURI("nbd+unix:///x?socket=none"), options, on: loop
    ) { [self] _, _, _, prepare in connect(several: several, prepare) }
    var opened: Result<ExportInfo, LineFailure>?
    session.open { opened = $0 }
    loop.run()
    _ = try opened?.get()
    return session
  }

  private func connect(
    several: Bool, _ prepare: (any Channel) -> EventLoopFuture<Void>
  ) -> EventLoopFuture<any Channel> {
    attempts.append(loop.now)
    guard isUp else {
      return loop.makeFailedFuture(
        IOError(errnoCode: Errno.connectionRefused.rawValue, reason: "connect"))
    }
    let client = EmbeddedChannel(loop: loop)
    let server = EmbeddedChannel(loop: loop)
    let number = attempts.count
    do {
      try client.pipeline.syncOperations.addHandler(Wire(to: server))
      try prepare(client).wait()
      try server.pipeline.syncOperations.addHandler(Wire(to: client))
      var flags: TransmissionFlags = [.hasFlags, .sendFlush, .sendFUA]
      if several { flags.insert(.canMultiConn) }
      if isTalking {
        try server.pipeline.syncOperations.addHandler(
          ScriptedHandler(number: number, byteCount: 1 << 20, flags: flags) {
            [arrived] connection, request, data in
            arrived.withLock {
              $0.append(.init(connection: connection, request: request, data: data))
            }
            return ByteBuffer()
          })
      }
      servers[number] = server
      let nowhere = try SocketAddress(unixDomainSocketPath: "none")
      client.connect(to: nowhere, promise: nil)
      server.connect(to: nowhere, promise: nil)
    } catch {
      return loop.makeFailedFuture(error)
    }
    return loop.makeSucceededFuture(client)
  }

  /// Answers a request: well, unless it is said otherwise.
  func answer(_ arrival: Arrival, _ error: WireError = .none) {
    arrived.withLock { all in
      all.removeAll {
        $0.connection == arrival.connection && $0.request.cookie == arrival.request.cookie
      }
    }
    let answer =
      error == .none ? Answer.truth(arrival.request) : Answer.simple(arrival.request, error)
    servers[arrival.connection]?.writeAndFlush(answer, promise: nil)
    loop.run()
  }

  /// Answers everything that is there and comes thereupon.
  func answerAll() {
    loop.run()
    while let next = arrivals.first { answer(next) }
  }

  /// A connection breaks.
  func lose(_ connection: Int) {
    servers.removeValue(forKey: connection)?.close(promise: nil)
    loop.run()
  }

  /// The server is killed, and nothing takes its place.
  func kill() {
    isUp = false
    for connection in connections { lose(connection) }
  }

  /// The time.
  var now: NIODeadline { loop.now }

  /// Everything happens that needs no time.
  func settle() { loop.run() }

  /// Time passes.
  func wait(_ duration: Duration) { loop.advanceTime(by: TimeAmount(duration)) }
}

/// Takes what is sent on one end to the other one.
private final class Wire: ChannelOutboundHandler, ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundIn = ByteBuffer

  private weak var peer: EmbeddedChannel?

  init(to peer: EmbeddedChannel) { self.peer = peer }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    let bytes = unwrapOutboundIn(data)
    later(context) { peer in if peer.isActive { _ = try? peer.writeInbound(bytes) } }
    promise?.succeed()
  }

  func channelInactive(context: ChannelHandlerContext) {
    later(context) { $0.close(promise: nil) }
    context.fireChannelInactive()
  }

  private func later(
    _ context: ChannelHandlerContext, _ body: @escaping (EmbeddedChannel) -> Void
  ) {
    context.eventLoop.assumeIsolated().execute { [peer] in if let peer { body(peer) } }
  }
}

/// One who makes requests and remembers what became of them.
final class Caller {
  let session: ClientSession
  /// What was answered, by the number that ``submit(_:at:)`` gave.
  private(set) var answers: [Int: ClientAnswer] = [:]
  private var count = 0
  private let pages: Pages

  init(_ session: ClientSession) throws {
    self.session = session
    pages = try PagePool.lend(holding: 256)
  }

  /// A request for one sector.
  @discardableResult
  func submit(_ operation: (IOBuffer) -> ClientRequest.Operation, at sector: UInt64 = 0) -> Int {
    count += 1
    let number = count
    let buffer = pages.buffer.slice(Sector(sector % 256), 1)
    let operation = operation(buffer)
    var bytes = sector * 512..<sector * 512 + 512
    if case .flush = operation { bytes = 0..<0 }
    session.submit(ClientRequest(operation: operation, bytes: bytes)) {
      precondition(self.answers.updateValue($0, forKey: number) == nil, "answered twice")
    }
    return number
  }

  func read(_ sector: UInt64) -> Int { submit({ .read($0) }, at: sector) }

  /// Writes a sector full of that byte.
  func write(_ sector: UInt64, byte: UInt8 = 1, durable: Bool = false) -> Int {
    submit(
      { buffer in
        buffer.load(from: [UInt8](repeating: byte, count: buffer.byteCount))
        return .write(buffer, durable: durable)
      }, at: sector)
  }

  func flush() -> Int { submit({ _ in .flush }) }

  func isDone(_ number: Int) -> Bool {
    if case .done? = answers[number] { true } else { false }
  }

  /// Why it failed.
  func failure(_ number: Int) -> String? {
    guard case .failed(let failure)? = answers[number] else { return nil }
    return failure.detail ?? "\(failure.error)"
  }
}
