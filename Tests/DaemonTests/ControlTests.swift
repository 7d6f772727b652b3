import Foundation
import Logging
import NIOCore
import NIOPosix
import Testing

@testable import Daemon

/// The control protocol, and the socket.
struct ControlTests {
  @Test func requestsAndRepliesGoThereAndBack() throws {
    let requests: [ControlRequest] = [
      .create(name: "a b", uuid: nil, table: "0 8 zero\n", readOnly: false), .list,
      .snapshotTake(
        snapshots: [
          SnapshotOrder(name: "s", origin: "o", cow: "/c", size: 5, chunkSectors: 8)
        ], export: true),
      .wait(name: "a", event: 7),
    ]
    for request in requests {
      var line = ControlWire.encode(request)
      #expect(line.readableBytesView.count(where: { $0 == UInt8(ascii: "\n") }) == 1)
      line.moveWriterIndex(to: line.writerIndex - 1)
      #expect(try ControlWire.decodeRequest(line) == request)
    }
    var line = ControlWire.encode(.failed(failure: .refused("no")))
    line.moveWriterIndex(to: line.writerIndex - 1)
    #expect(try ControlWire.decodeReply(line) == .failed(failure: .refused("no")))
  }

  @Test func aRequestOnTheWireLooksLikeThat() {
    #expect(
      String(buffer: ControlWire.encode(.unexport(export: "e")))
        == #"{"kcopyd":1,"request":{"unexport":{"export":"e"}}}"# + "\n")
  }

  @Test(arguments: [
    ("", "not JSON"), ("GET / HTTP/1.1", "not JSON"), ("{}", "'kcopyd' is missing"),
    (#"{"kcopyd":2,"request":{"list":{}}}"#, "version 2"),
    (#"{"kcopyd":1,"request":{"nonsense":{}}}"#, "request"),
    (#"{"kcopyd":1,"request":{"clear":{}}}"#, "'name' is missing"),
    (#"{"kcopyd":1,"request":{"clear":{"name":5}}}"#, "request.clear.name"),
    (#"{"kcopyd":1,"request":{"export":{"name":"a","readonly":true}}}"#, "'readOnly' is missing"),
  ])
  func malformedLinesAreRefusedWithTheReason(line: String, reason: String) {
    let failure = #expect(throws: ControlFailure.self) {
      try ControlWire.decodeRequest(ByteBuffer(string: line))
    }
    #expect(failure?.message.contains(reason) == true, "\(failure?.message ?? "")")
  }

  @Test func linesAreCutHoweverTheyCome() throws {
    let text = ByteBuffer(string: "one\n\ntwo\nthree")
    for size in 1...5 {
      var decoder = LineDecoder(maximum: ControlLine.maximum)
      var input = ByteBuffer()
      var lines: [String] = []
      var rest = text
      while let piece = rest.readSlice(length: min(size, rest.readableBytes)),
        piece.readableBytes > 0
      {
        input.writeImmutableBuffer(piece)
        while let line = try decoder.decode(buffer: &input) { lines.append(String(buffer: line)) }
      }
      #expect(lines == ["one", "", "two"])
    }
  }

  @Test func aLineWithoutEndIsRefused() {
    var decoder = LineDecoder(maximum: ControlLine.maximum)
    var input = ByteBuffer(repeating: 0x20, count: ControlLine.maximum)
    #expect(throws: Never.self) { try decoder.decode(buffer: &input) }
    input.writeRepeatingByte(0x20, count: 2)
    #expect(throws: LineTooLong.self) { try decoder.decode(buffer: &input) }
  }

  private struct Echo: ControlHandler {
    func handle(
      _ request: ControlRequest, progress: @escaping ControlProgress
    ) async throws(ControlFailure) -> ControlAnswer {
      await progress(1, 2, "half")
      guard case .clear(let name) = request else { throw .refused("only clear") }
      return .text(text: name)
    }
  }

  @Test func garbageClosesItsConnectionAndNoOther() async throws {
    let folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kc-\(UUID().uuidString.prefix(8))").path
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = "\(folder)/s"
    let server = try await ControlServer(
      path: path, inherited: nil, group: MultiThreadedEventLoopGroup.singleton,
      logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    let running = Task { try await server.run(Echo()) }
    var info = stat()
    #expect(stat(path, &info) == 0 && info.st_mode & 0o777 == 0o600)
    #expect(stat(folder, &info) == 0 && info.st_mode & 0o777 == 0o700)

    #expect(try await ControlClient.send(.clear(name: "x"), to: path) == .text(text: "x"))
    await #expect(throws: ControlFailure.refused("only clear")) {
      try await ControlClient.send(.list, to: path)
    }
    for garbage in [
      Data("hello\n".utf8), Data([0, 255, 10]), Data(repeating: 0x7b, count: 3 << 20),
      Data("{\"kcopyd\":1}\n{\"kcopyd\":1}\n".utf8),
    ] {
      let closed = try await Self.send(garbage, to: path)
      #expect(closed, "a connection with garbage stayed open")
    }
    #expect(try await ControlClient.send(.clear(name: "y"), to: path) == .text(text: "y"))
    running.cancel()
    _ = await running.result
  }

  /// Whoever is told that a request was refused takes it that nothing has been done.
  @Test func aDaemonThatEndsBeforeItAnswersIsNoRefusal() async throws {
    let folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kc-\(UUID().uuidString.prefix(8))").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = "\(folder)/s"
    let absent = await #expect(throws: ControlFailure.self) {
      try await ControlClient.send(.clear(name: "x"), to: path)
    }
    #expect(absent?.kind == .refused)
    let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.scheduleTask(in: .milliseconds(100)) { channel.close(promise: nil) }
        return channel.eventLoop.makeSucceededVoidFuture()
      }
      .bind(unixDomainSocketPath: path).get()
    let failure = await #expect(throws: ControlFailure.self) {
      try await ControlClient.send(.clear(name: "x"), to: path)
    }
    #expect(failure?.kind == .failed)
    #expect(failure?.message.contains("ended before it answered") == true)
    try await listener.close()
  }

  /// Sends bytes, and whether the other end has closed then.
  private static func send(_ data: Data, to path: String) async throws -> Bool {
    let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .connect(unixDomainSocketPath: path).get()
    channel.writeAndFlush(ByteBuffer(bytes: data), promise: nil)
    try await channel.closeFuture.get()
    return true
  }
}
