import Logging
import NIOCore
import Synchronization

/// A client of the control socket: its requests, one after the other.
struct ControlConnection<Handler: ControlHandler>: Sendable {
  let number: UInt64
  let connections: ControlConnections
  let limits: ControlLimits
  let channel: any Channel
  let handler: Handler
  let logger: Logger

  /// Answers lines until one side ends it.
  func serve(_ channels: ControlServer.Channels) async {
    let request = RequestUnderWay()
    // Nobody waits any more when the client has gone.
    channel.closeFuture.whenComplete { _ in request.cancel() }
    do {
      try await channels.executeThenClose { inbound in
        for try await line in inbound {
          guard try await answer(line, request) else { return }
        }
      }
    } catch is LineTooLong {
      logger.warning("a line on the control socket is longer than \(ControlLine.maximum) bytes")
    } catch {
      logger.debug("a connection to the control socket ended", metadata: ["reason": "\(error)"])
    }
  }

  /// - Returns: whether another line may follow.
  private func answer(_ line: ByteBuffer, _ underWay: RequestUnderWay) async throws -> Bool {
    let request: ControlRequest
    do throws(ControlFailure) {
      request = try ControlWire.decodeRequest(line)
    } catch {
      logger.warning(
        "a line on the control socket isn't a request", metadata: ["reason": "\(error)"])
      try await send(.failed(failure: error))
      return false
    }
    switch connections.begin(number, isWaiting: request.isWaiting) {
    case .gone: return false
    case .tooManyWait:
      try await send(.failed(failure: .refused("too many wait already; try again later")))
    case .taken:
      defer { connections.end(number) }
      try await send(await underWay.run { await reply(to: request) })
    }
    return true
  }

  private func reply(to request: ControlRequest) async -> ControlReply {
    do throws(ControlFailure) {
      let answer = try await handler.handle(request) { done, total, text in
        // A client that doesn't take it is disconnected, which cancels the request.
        try? await send(.progress(done: done, total: total, text: text))
      }
      return .done(answer: answer)
    } catch {
      return .failed(failure: error)
    }
  }

  /// Sends a line; returns when the socket has all of it.
  private func send(_ reply: ControlReply) async throws {
    var line = ControlWire.encode(reply)
    if line.readableBytes > limits.longestReply {
      line = ControlWire.encode(
        .failed(
          failure: .failed(
            "the answer would have \(line.readableBytes) bytes, more than "
              + "\(limits.longestReply); ask for one device at a time")))
    }
    let timeout = channel.eventLoop.scheduleTask(in: limits.patience) {
      logger.warning("a client of the control socket doesn't read: it is disconnected")
      channel.close(promise: nil)
    }
    defer { timeout.cancel() }
    try await withTaskCancellationHandler {
      try await channel.writeAndFlush(line).get()
    } onCancel: {
      channel.close(promise: nil)
    }
  }
}

extension ControlRequest {
  /// Whether it does nothing but wait: whoever is refused may ask again.
  fileprivate var isWaiting: Bool {
    switch self {
    case .wait, .follow: true
    default: false
    }
  }
}

/// The task of a connection's request, which ends with the connection or the server.
private final class RequestUnderWay: Sendable {
  private struct State {
    var task: Task<ControlReply, Never>?
    var isCancelled = false
  }
  private let state = Mutex(State())

  func run(_ body: @escaping @Sendable () async -> ControlReply) async -> ControlReply {
    let task = Task { await body() }
    let isCancelled = state.withLock { state in
      state.task = task
      return state.isCancelled
    }
    if isCancelled { task.cancel() }
    return await withTaskCancellationHandler {
      await task.value
    } onCancel: {
      task.cancel()
    }
  }

  func cancel() {
    state.withLock { state in
      state.isCancelled = true
      return state.task
    }?.cancel()
  }
}
