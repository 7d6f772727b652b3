import BlockIO
import Foundation
import Logging
import NIOCore
import NIOPosix

@testable import NBD

/// A server of one device on a Unix socket in a temporary folder, for the length of a test.
struct TestServer {
  let network: NetworkLoop
  let server: NBDServer
  let folder: URL
  var socket: String { folder.appendingPathComponent("s").path }

  /// Runs `body` with a server, and takes everything down again.
  static func serving(
    limits: ServerLimits = ServerLimits(), tls: ServerTLS? = nil, helpers: Int = 1,
    _ devices: [String: any BlockDevice], isReadOnly: Bool = false,
    _ body: (TestServer) async throws -> Void
  ) async throws {
    let network = try await NetworkLoop.start(helpers: helpers, logger: .silent)
    let folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kcopyd-nbd-\(UInt32.random(in: 0 ... .max))")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let server = try NBDServer(on: network, limits: limits, tls: tls, logger: .silent)
    let test = TestServer(network: network, server: server, folder: folder)
    var failure: (any Error)?
    do {
      for (name, device) in devices {
        try await server.export(device, as: name, isReadOnly: isReadOnly)
      }
      try await server.listen(on: .unix(path: test.socket))
      try await body(test)
    } catch {
      failure = error
    }
    await server.shutDown()
    await network.stop()
    try? FileManager.default.removeItem(at: folder)
    if let failure { throw failure }
  }
}

extension Logger {
  /// Says nothing.
  static let silent = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
}

extension OptionHeader {
  /// An option with its data.
  static func write(_ option: OptionType, _ data: [UInt8] = [], to buffer: inout ByteBuffer) {
    OptionHeader(option, length: UInt32(data.count)).write(to: &buffer)
    buffer.writeBytes(data)
  }
}

/// A client that says and hears bytes.
actor RawClient {
  private let channel: any Channel
  private let arrivals: AsyncStream<ByteBuffer>
  private var received = ByteBuffer()

  private init(_ channel: any Channel, _ arrivals: AsyncStream<ByteBuffer>) {
    self.channel = channel
    self.arrivals = arrivals
  }

  /// Runs `body` with a connected client.
  static func connected<R: Sendable>(
    to socket: String, _ body: (RawClient) async throws -> R
  ) async throws -> R {
    let (arrivals, feed) = AsyncStream.makeStream(of: ByteBuffer.self)
    let channel = try await ClientBootstrap(group: NIOSingletons.posixEventLoopGroup)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(Feeder(feed))
        }
      }
      .connect(unixDomainSocketPath: socket).get()
    let client = RawClient(channel, arrivals)
    let result: Result<R, any Error>
    do { result = .success(try await body(client)) } catch { result = .failure(error) }
    try? await channel.close().get()
    return try result.get()
  }

  func say(_ write: @Sendable (inout ByteBuffer) -> Void) async throws {
    var buffer = ByteBuffer()
    write(&buffer)
    try await channel.writeAndFlush(buffer).get()
  }

  /// Says it without waiting until the server hears it – it may never do.
  func sayUnheard(_ write: @Sendable (inout ByteBuffer) -> Void) {
    var buffer = ByteBuffer()
    write(&buffer)
    channel.writeAndFlush(buffer, promise: nil)
  }

  /// Closes the connection.
  func hangUp() async { try? await channel.close().get() }

  /// Leaves what the server says from now on where it is.
  func stopHearing() async throws {
    try await channel.setOption(.autoRead, value: false).get()
  }

  /// Hears it, after all.
  func hearAgain() async throws {
    try await channel.setOption(.autoRead, value: true).get()
  }

  /// The next `count` bytes; fewer when the server has closed.
  func hear(_ count: Int) async -> ByteBuffer {
    while received.readableBytes < count {
      var iterator = arrivals.makeAsyncIterator()
      guard var more = await iterator.next(isolation: self) else { break }
      received.writeBuffer(&more)
    }
    return received.readSlice(length: min(count, received.readableBytes)) ?? ByteBuffer()
  }

  /// Whether the server closes, having said nothing more.
  func hearsTheEnd() async -> Bool { await hear(1).readableBytes == 0 }

  /// All that the server says until it closes.
  func hearAll() async -> ByteBuffer { await hear(.max) }

  private final class Feeder: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let feed: AsyncStream<ByteBuffer>.Continuation
    init(_ feed: AsyncStream<ByteBuffer>.Continuation) { self.feed = feed }
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      feed.yield(unwrapInboundIn(data))
    }
    func channelInactive(context: ChannelHandlerContext) { feed.finish() }
    func errorCaught(context: ChannelHandlerContext, error: any Error) {
      context.close(promise: nil)
    }
  }
}

extension RawClient {
  /// Greets, agrees on structured replies and `base:allocation` if wanted, and uses an export.
  func go(_ export: String = "disk", structured: Bool = true) async throws {
    _ = await hear(18)
    try await say { buffer in
      buffer.writeInteger(UInt32(3))
      if structured {
        OptionHeader(.structuredReply, length: 0).write(to: &buffer)
        var body = ByteBuffer()
        body.writeInteger(UInt32(export.utf8.count))
        body.writeString(export)
        body.writeInteger(UInt32(1))
        body.writeInteger(UInt32("base:allocation".utf8.count))
        body.writeString("base:allocation")
        OptionHeader(.setMetaContext, length: UInt32(body.readableBytes)).write(to: &buffer)
        buffer.writeBuffer(&body)
      }
      var body = ByteBuffer()
      body.writeInteger(UInt32(export.utf8.count))
      body.writeString(export)
      body.writeInteger(UInt16(0))
      OptionHeader(.go, length: UInt32(body.readableBytes)).write(to: &buffer)
      buffer.writeBuffer(&body)
    }
    while let (option, reply) = await optionReply() {
      if option == .go, reply == .ack { return }
    }
  }

  /// The next answer to an option, without its data; nil when the server has closed.
  func optionReply() async -> (OptionType, OptionReplyType)? {
    var head = await hear(OptionReplyHeader.size)
    guard let header = OptionReplyHeader(&head) else { return nil }
    _ = await hear(Int(header.length))
    return (header.option, header.type)
  }

  func request(
    _ command: CommandType, flags: CommandFlags = [], cookie: UInt64 = 7, offset: UInt64 = 0,
    length: UInt32 = 0, data: [UInt8] = []
  ) async throws {
    try await say { buffer in
      RequestHeader(command, flags: flags, cookie: cookie, offset: offset, length: length)
        .write(to: &buffer)
      buffer.writeBytes(data)
    }
  }

  /// The error of a simple reply, and its cookie.
  func simpleReply() async -> (error: WireError, cookie: UInt64)? {
    var head = await hear(16)
    guard case .simple(let error, let cookie)? = ReplyHeader(&head) else { return nil }
    return (error, cookie)
  }

  /// A chunk with its body.
  func chunk() async -> (type: ChunkType, flags: ChunkFlags, cookie: UInt64, body: ByteBuffer)? {
    var head = await hear(20)
    guard case .chunk(let type, let flags, let cookie, let length)? = ReplyHeader(&head) else {
      return nil
    }
    return (type, flags, cookie, await hear(Int(length)))
  }
}
