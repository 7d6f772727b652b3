import Foundation
import NIOCore
import NIOPosix
import Synchronization

@testable import NBD

/// A server that shakes hands as it should and then answers each request as the test says:
/// truly, falsely or not at all.
final class ScriptedServer {
  /// What is sent for a request; nil: the connection is closed. The first number counts connections.
  typealias Script = @Sendable (Int, RequestHeader, ByteBuffer) -> ByteBuffer?

  let folder: URL
  private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
  private var channel: (any Channel)?

  var uri: NBDURI {
    get throws { try NBDURI("nbd+unix:///x?socket=\(folder.path)/s") }
  }

  init(
    byteCount: UInt64 = 1 << 20,
    flags: TransmissionFlags = [
      .hasFlags, .sendFlush, .sendFUA, .sendTrim, .sendWriteZeroes,
    ],
    structured: Bool = true, greeting: ByteBuffer? = nil, answersEarly: Bool = false,
    script: @escaping Script
  ) async throws {
    folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kcopyd-nbd-\(UUID().uuidString.prefix(8))")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let count = Counter()
    channel = try await ServerBootstrap(group: group)
      .childChannelInitializer { channel in
        let number = count.next()
        return channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(
            ScriptedHandler(
              number: number, byteCount: byteCount, flags: flags, isStructured: structured,
              greeting: greeting, answersEarly: answersEarly && number == 1, script: script))
        }
      }
      .bind(unixDomainSocketPath: "\(folder.path)/s").get()
  }

  deinit {
    channel?.close(promise: nil)
    group.shutdownGracefully { _ in }
    try? FileManager.default.removeItem(at: folder)
  }
}

private final class Counter: Sendable {
  private let value = Atomic<Int>(0)
  func next() -> Int { value.add(1, ordering: .relaxed).newValue }
}

final class ScriptedHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let number: Int
  private let byteCount: UInt64
  private let flags: TransmissionFlags
  private let isStructured: Bool
  private let greeting: ByteBuffer?
  /// Says that a write is done without having read its data, and never reads again.
  private let answersEarly: Bool
  private let script: ScriptedServer.Script
  private var input = ByteBuffer()
  private var hasFlags = false
  private var isInUse = false

  init(
    number: Int, byteCount: UInt64, flags: TransmissionFlags, isStructured: Bool = true,
    greeting: ByteBuffer? = nil, answersEarly: Bool = false,
    script: @escaping ScriptedServer.Script
  ) {
    self.number = number
    self.byteCount = byteCount
    self.flags = flags
    self.isStructured = isStructured
    self.greeting = greeting
    self.answersEarly = answersEarly
    self.script = script
  }

  func channelActive(context: ChannelHandlerContext) {
    var hello = ByteBuffer()
    hello.writeMultipleIntegers(Magic.greeting, Magic.newstyle, UInt16(3))
    context.writeAndFlush(NIOAny(greeting ?? hello), promise: nil)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = unwrapInboundIn(data)
    input.writeBuffer(&bytes)
    if !hasFlags {
      guard input.readInteger(as: UInt32.self) != nil else { return }
      hasFlags = true
    }
    while isInUse ? request(context) : option(context) {}
  }

  private func option(_ context: ChannelHandlerContext) -> Bool {
    var rest = input
    guard let header = OptionHeader(&rest),
      let data = rest.readSlice(length: Int(header.length))
    else { return false }
    input = rest
    var answer = ByteBuffer()
    func reply(_ type: OptionReplyType, _ data: ByteBuffer = ByteBuffer()) {
      OptionReplyHeader(header.option, type, length: UInt32(data.readableBytes)).write(to: &answer)
      answer.writeImmutableBuffer(data)
    }
    switch header.option {
    case .structuredReply: reply(isStructured ? .ack : .unsupported)
    case .setMetaContext:
      var context = ByteBuffer()
      context.writeInteger(UInt32(1))
      context.writeString("base:allocation")
      reply(.metaContext, context)
      reply(.ack)
    case .go:
      _ = data
      var info = ByteBuffer()
      info.writeMultipleIntegers(InfoType.export.rawValue, byteCount, flags.rawValue)
      reply(.info, info)
      reply(.ack)
      isInUse = true
    default: reply(.unsupported)
    }
    context.writeAndFlush(NIOAny(answer), promise: nil)
    return true
  }

  private func request(_ context: ChannelHandlerContext) -> Bool {
    var rest = input
    guard let header = RequestHeader(&rest) else { return false }
    if answersEarly, header.command == .write {
      context.channel.setOption(.autoRead, value: false).assumeIsolated().whenSuccess {}
      context.writeAndFlush(NIOAny(Answer.simple(header)), promise: nil)
      return false
    }
    let length = header.command == .write ? Int(header.length) : 0
    guard let data = rest.readSlice(length: length) else { return false }
    input = rest
    if header.command == .disconnect { return false }
    guard let answer = script(number, header, data) else {
      context.close(promise: nil)
      return false
    }
    context.writeAndFlush(NIOAny(answer), promise: nil)
    return true
  }
}

/// Answers as the wire has them.
enum Answer {
  static func simple(_ request: RequestHeader, _ error: WireError = .init(rawValue: 0))
    -> ByteBuffer
  {
    var bytes = ByteBuffer()
    ReplyHeader.simple(error: error, cookie: request.cookie).write(to: &bytes)
    return bytes
  }

  static func chunk(
    _ request: RequestHeader, _ type: ChunkType, last: Bool = true, cookie: UInt64? = nil,
    _ body: (inout ByteBuffer) -> Void = { _ in }
  ) -> ByteBuffer {
    var data = ByteBuffer()
    body(&data)
    var bytes = ByteBuffer()
    ReplyHeader.chunk(
      type: type, flags: last ? .done : [], cookie: cookie ?? request.cookie,
      length: UInt32(data.readableBytes)
    ).write(to: &bytes)
    bytes.writeBuffer(&data)
    return bytes
  }

  /// Data from so many bytes behind the start of the request on.
  static func data(
    _ request: RequestHeader, from start: Int = 0, count: Int? = nil, last: Bool = true,
    byte: UInt8 = 7
  ) -> ByteBuffer {
    chunk(request, .offsetData, last: last) {
      $0.writeInteger(request.offset &+ UInt64(bitPattern: Int64(start)))
      $0.writeRepeatingByte(byte, count: count ?? Int(request.length))
    }
  }

  /// What a true server would say, with sevens for data.
  static func truth(_ request: RequestHeader) -> ByteBuffer {
    request.command == .read ? data(request) : simple(request)
  }
}
