import Foundation
import Logging
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import Daemon

/// Clients of the control socket that are slow, or mean no good: each is kept within its limits, and
/// the others are served meanwhile.
@Suite(.timeLimit(.minutes(1)))
struct ControlLimitTests {
  /// Whoever doesn't take a long answer is disconnected.
  @Test func anAnswerThatIsntReadIsntKept() async throws {
    let world = try await ControlWorld { $0.patience = .milliseconds(100) }
    let client = try RawClient(world.path)
    try await client.send(.table(name: "8388608", inactive: false))
    #expect(try await world.answers)
    #expect(await client.waitForHangUp())
    try await world.end()
  }

  /// Progress that isn't read isn't made, and ends the request.
  @Test func progressThatIsntReadIsntKept() async throws {
    let world = try await ControlWorld { $0.patience = .milliseconds(100) }
    let client = try RawClient(world.path)
    try await client.send(.follow(device: "endless"))
    #expect(try await world.answers)
    #expect(await client.waitForHangUp())
    await world.handler.endless.wait()
    #expect(world.handler.told.load(ordering: .relaxed) < 1 << 20)
    try await world.end()
  }

  @Test func halfALineIsNoRequest() async throws {
    let world = try await ControlWorld()
    let client = try RawClient(world.path)
    let line = Array(
      ControlWire.encode(.clear(name: "half") as ControlRequest).readableBytesView.dropLast())
    #expect(await client.send(line) == line.count)
    #expect(try await world.answers)
    client.closeSending()
    #expect(await client.waitForHangUp())
    #expect(world.handler.cleared.withLock { $0 } == ["y"])
    try await world.end()
  }

  /// A client may send ahead, but not more than a few lines are read before their turn.
  @Test func aFloodOfLinesIsntReadAhead() async throws {
    let world = try await ControlWorld()
    let client = try RawClient(world.path)
    try await client.send(.list)
    await world.handler.listing.wait()
    let line = [UInt8](repeating: 0x20, count: 512 << 10) + [0x0a]
    var taken = 0
    while taken < 64 << 20 {
      let count = await client.send(line, within: 300)
      taken += count
      if count < line.count { break }
    }
    #expect(taken < 4 << 20)
    #expect(try await world.answers)
    world.handler.listed.open()
    try await world.end()
  }

  @Test func idleConnectionsKeepNobodyOut() async throws {
    let world = try await ControlWorld { $0.connections = 4 }
    let idle = try (0..<4).map { _ in try RawClient(world.path) }
    #expect(try await world.answers)
    withExtendedLifetime(idle) {}
    try await world.end()
  }

  @Test func whoWaitsKeepsNoVerbOut() async throws {
    let world = try await ControlWorld {
      $0.connections = 4
      $0.waiting = 2
    }
    let waiting = try (0..<2).map { _ in try RawClient(world.path) }
    for client in waiting { try await client.send(.wait(name: "a", event: nil)) }
    await world.handler.waiting.wait(for: 2)
    let refused = await #expect(throws: ControlFailure.self) {
      try await ControlClient.send(.wait(name: "a", event: nil), to: world.path)
    }
    #expect(refused?.kind == .refused && refused?.message.contains("too many wait") == true)
    #expect(try await world.answers)
    withExtendedLifetime(waiting) {}
    try await world.end()
  }

  @Test func tooManyRequestsAreRefusedInWords() async throws {
    let world = try await ControlWorld { $0.connections = 2 }
    let busy = try (0..<2).map { _ in try RawClient(world.path) }
    for client in busy { try await client.send(.list) }
    await world.handler.listing.wait(for: 2)
    let refused = await #expect(throws: ControlFailure.self) {
      try await ControlClient.send(.clear(name: "x"), to: world.path)
    }
    #expect(refused?.kind == .refused && refused?.message.contains("too many requests") == true)
    world.handler.listed.open()
    for client in busy { #expect(await client.readLine()?.contains("nothing") == true) }
    #expect(try await world.answers)
    try await world.end()
  }

  @Test func answersAreLongerThanRequestsButBounded() async throws {
    let world = try await ControlWorld { $0.longestReply = 4 << 20 }
    let long = try await ControlClient.send(
      .table(name: "\(3 << 20)", inactive: false), to: world.path)
    guard case .text(let text) = long else { throw ControlFailure.failed("\(long)") }
    #expect(text.utf8.count == 3 << 20)
    let failure = await #expect(throws: ControlFailure.self) {
      try await ControlClient.send(.table(name: "\(4 << 20)", inactive: false), to: world.path)
    }
    #expect(failure?.message.contains("one device at a time") == true)
    try await world.end()
  }

  /// Neither a client that doesn't read nor one that waits holds the daemon's end up.
  @Test func theEndWaitsForNobody() async throws {
    let world = try await ControlWorld { $0.patience = .hours(1) }
    let clients = try (0..<2).map { _ in try RawClient(world.path) }
    try await clients[0].send(.follow(device: "endless"))
    try await clients[1].send(.wait(name: "a", event: nil))
    await world.handler.waiting.wait(for: 1)
    try await world.end()
    for client in clients { #expect(await client.waitForHangUp()) }
  }
}

/// Something that happens, and may have happened several times.
private final class Signal: Sendable {
  private let state = Mutex((count: 0, waiting: [(count: Int, CheckedContinuation<Void, Never>)]()))

  func open() {
    state.withLock { state in
      state.count += 1
      for waiter in state.waiting where waiter.count <= state.count { waiter.1.resume() }
      state.waiting.removeAll { $0.count <= state.count }
    }
  }

  /// Ends also when the test's time is over.
  func wait(for count: Int = 1) async {
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        state.withLock { state in
          if state.count >= count || Task.isCancelled {
            continuation.resume()
          } else {
            state.waiting.append((count, continuation))
          }
        }
      }
    } onCancel: {
      state.withLock { state in
        for waiter in state.waiting { waiter.1.resume() }
        state.waiting = []
      }
    }
  }
}

/// Answers `clear` at once, `table` at length, `list` when ``listed`` is open, `wait` never and
/// `follow` with progress without end.
private final class LimitHandler: ControlHandler {
  let cleared = Mutex<[String]>([])
  let listing = Signal()
  let listed = Signal()
  let waiting = Signal()
  let endless = Signal()
  /// Bytes of progress that were taken.
  let told = Atomic<Int>(0)

  func handle(
    _ request: ControlRequest, progress: @escaping ControlProgress
  ) async throws(ControlFailure) -> ControlAnswer {
    switch request {
    case .clear(let name):
      cleared.withLock { $0.append(name) }
      return .text(text: name)
    case .table(let name, _):
      return .text(text: String(repeating: "x", count: name.flatMap { Int($0) } ?? 0))
    case .list:
      listing.open()
      await listed.wait()
    case .wait:
      waiting.open()
      while !Task.isCancelled { try? await Task.sleep(for: .seconds(60)) }
    case .follow:
      let text = String(repeating: "x", count: 10_000)
      while !Task.isCancelled {
        await progress(0, 1, text)
        told.add(text.utf8.count, ordering: .relaxed)
      }
      endless.open()
    default: throw .refused("unknown")
    }
    return .nothing
  }
}

/// A control socket in a folder of its own.
private final class ControlWorld: Sendable {
  let path: String
  let handler = LimitHandler()
  private let folder: String
  private let running: Task<Void, any Error>

  init(_ change: (inout ControlLimits) -> Void = { _ in }) async throws {
    folder =
      FileManager.default.temporaryDirectory
      .appendingPathComponent("kc-\(UUID().uuidString.prefix(8))").path
    path = "\(folder)/s"
    var limits = ControlLimits()
    change(&limits)
    let server = try await ControlServer(
      path: path, inherited: nil, limits: limits, group: MultiThreadedEventLoopGroup.singleton,
      logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    running = Task { [handler] in try await server.run(handler) }
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  /// Whether another client is served.
  var answers: Bool {
    get async throws {
      try await ControlClient.send(.clear(name: "y"), to: path) == .text(text: "y")
    }
  }

  func end() async throws {
    running.cancel()
    _ = await running.result
  }
}

/// A client that does only what it is told.
private final class RawClient: Sendable {
  private let socket: Int32

  init(_ path: String) throws {
    #if os(Linux)
      let kind = Int32(SOCK_STREAM.rawValue)
    #else
      let kind = SOCK_STREAM
    #endif
    socket = Foundation.socket(AF_UNIX, kind, 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let result = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    try #require(result == 0)
    try #require(fcntl(socket, F_SETFL, O_NONBLOCK) == 0)
  }

  deinit { close(socket) }

  func send(_ request: ControlRequest) async throws {
    let line = Array(ControlWire.encode(request).readableBytesView)
    try #require(await send(line) == line.count)
  }

  /// Sends as much as the other end takes, waiting that many milliseconds for it to take more.
  func send(_ bytes: [UInt8], within milliseconds: Int32 = 30_000) async -> Int {
    var done = 0
    while done < bytes.count {
      let count = bytes[done...].withUnsafeBytes {
        Foundation.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      if count > 0 {
        done += count
      } else if await wait(for: Int16(POLLOUT), milliseconds) & Int16(POLLOUT) == 0 {
        break
      }
    }
    return done
  }

  func closeSending() { shutdown(socket, Int32(SHUT_WR)) }

  /// Waits until the other end has closed; what it has sent isn't read.
  func waitForHangUp() async -> Bool { await wait(for: 0, 30_000) & Int16(POLLHUP) != 0 }

  /// The next line; nil: there won't be one.
  func readLine() async -> String? {
    var line: [UInt8] = []
    var byte: UInt8 = 0
    while await wait(for: Int16(POLLIN), 30_000) & Int16(POLLIN) != 0,
      recv(socket, &byte, 1, 0) == 1
    {
      if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
      line.append(byte)
    }
    return nil
  }

  /// On a thread of its own: those of tasks are few, and the server needs them.
  private func wait(for events: Int16, _ milliseconds: Int32) async -> Int16 {
    await withCheckedContinuation { continuation in
      Thread.detachNewThread { [socket] in
        var entry = pollfd(fd: socket, events: events, revents: 0)
        poll(&entry, 1, milliseconds)
        continuation.resume(returning: entry.revents)
      }
    }
  }
}
