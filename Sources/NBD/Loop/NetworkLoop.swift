public import BlockIO
public import Logging
public import NIOCore
import NIOPosix
import SystemPackage

/// One thread that runs network and disk: a NIO event loop that hosts an ``IOLoop``.
///
/// With a thread for each, every request would be handed over twice, and at one request at a time
/// a hand-over costs more than all the rest. Here a channel handler is on the I/O loop, too: it may
/// start a request there and then, and one for which nothing has to be waited for ends before the
/// call returns.
public final class NetworkLoop: Sendable {
  /// The network's side.
  public let eventLoop: any EventLoop
  /// The disk's side: executor of tasks and actors, place of devices.
  public let ioLoop: IOLoop

  private let group: MultiThreadedEventLoopGroup
  private let passes: NIOLoopBound<Passes>

  private init(
    _ group: MultiThreadedEventLoopGroup, _ ioLoop: IOLoop, _ passes: NIOLoopBound<Passes>
  ) {
    self.group = group
    self.ioLoop = ioLoop
    self.passes = passes
    eventLoop = group.next()
  }

  /// Starts the thread. It runs until ``stop()``.
  ///
  /// - Parameters:
  ///   - backend: which backend transfers go through; `auto` falls back to threads where io_uring
  ///     is refused.
  ///   - transferThreads: how many threads copy within the page cache.
  ///   - logger: where the choice of the backend is reported.
  /// - Throws: when the backend that was insisted on is not to be had.
  public static func start(
    backend: BackendChoice = .auto, transferThreads: Int = 2,
    logger: Logger = Logger(label: "kcopyd")
  ) async throws(IOFailure) -> NetworkLoop {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let eventLoop = group.next()
    do {
      let (ioLoop, event, passes) = try await eventLoop.submit {
        let passes = Passes(eventLoop)
        let bound = NIOLoopBound(passes, eventLoop: eventLoop)
        let host = LoopHost { eventLoop.execute { bound.value.run() } }
        let ioLoop = try IOLoop.hosted(
          backend: backend, transferThreads: transferThreads, logger: logger, by: host)
        passes.loop = ioLoop
        return (ioLoop, try ioLoop.completionEvent?.duplicate(), bound)
      }.get()
      if let event { try await watch(event, passes, on: group) }
      return NetworkLoop(group, ioLoop, passes)
    } catch {
      try? await group.shutdownGracefully()
      throw (error as? IOFailure)
        ?? IOFailure(.startLoop, "a network event loop", errno: .ioError, detail: "\(error)")
    }
  }

  /// Has completed transfers lead to a pass: their event is one more thing to read from.
  private static func watch(
    _ event: SystemPackage.FileDescriptor, _ passes: NIOLoopBound<Passes>,
    on group: MultiThreadedEventLoopGroup
  ) async throws {
    do {
      let channel = try await NIOPipeBootstrap(group: group)
        .channelOption(.maxMessagesPerRead, value: 1)
        .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 16))
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(CompletionHandler(passes.value))
          }
        }
        .takingOwnershipOfDescriptor(input: event.rawValue).get()
      try await channel.eventLoop.submit { passes.value.completions = channel }.get()
    } catch {
      try? event.close()
      throw error
    }
  }

  /// Ends the thread when the work at hand is done. Nothing may be under way or come after it.
  public func stop() async {
    ioLoop.stop()
    let passes = passes
    let hasEnded = eventLoop.makePromise(of: Void.self)
    eventLoop.execute { passes.value.whenEnded(hasEnded) }
    try? await hasEnded.futureResult.get()
    try? await group.shutdownGracefully()
  }
}

/// Runs the passes of the hosted loop; on the event loop's thread only.
private final class Passes {
  var loop: IOLoop?
  var completions: (any Channel)?
  private let eventLoop: any EventLoop
  private var timer: (deadline: LoopInstant, scheduled: Scheduled<Void>)?
  private var hasEnded = false
  private var ended: EventLoopPromise<Void>?

  init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

  func run() {
    guard !hasEnded, let loop else { return }
    guard loop.pass() else {
      hasEnded = true
      timer?.scheduled.cancel()
      completions?.close(promise: nil)
      ended?.succeed()
      return
    }
    setTimer(loop)
  }

  /// One timer of the event loop stands for all of the I/O loop. It may be early: then nothing is
  /// due, and the pass sets the next one.
  private func setTimer(_ loop: IOLoop) {
    guard let deadline = loop.nextDeadline else { return }
    if let timer, timer.deadline <= deadline { return }
    timer?.scheduled.cancel()
    let rest = max(0, loop.now.duration(to: deadline).nanoseconds)
    let bound = NIOLoopBound(self, eventLoop: eventLoop)
    let scheduled = eventLoop.scheduleTask(in: .nanoseconds(rest)) {
      bound.value.timer = nil
      bound.value.run()
    }
    timer = (deadline, scheduled)
  }

  func whenEnded(_ promise: EventLoopPromise<Void>) {
    if hasEnded { promise.succeed() } else { ended = promise }
  }
}

/// What the event of completed transfers leads to.
private final class CompletionHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let passes: Passes

  init(_ passes: Passes) { self.passes = passes }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) { passes.run() }
}
