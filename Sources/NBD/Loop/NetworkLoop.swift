public import BlockIO
public import Logging
public import NIOCore
import NIOPosix
import Synchronization
import SystemPackage

/// One thread that runs network and disk: a NIO event loop that hosts an ``IOLoop``.
///
/// With a thread for each, every request would be handed over twice, and at one request at a time
/// a hand-over costs more than all the rest. Here a channel handler is on the I/O loop, too: it may
/// start a request there and then, and one for which nothing has to be waited for ends before the
/// call returns.
///
/// It may have helpers: further threads of the same kind for connections, without devices.
public final class NetworkLoop: Sendable {
  /// The network's side.
  public var eventLoop: any EventLoop { members[0].eventLoop }
  /// The disk's side: executor of tasks and actors, place of devices.
  public var ioLoop: IOLoop { members[0].ioLoop }

  /// All threads; NIO deals them out to new connections in turns.
  let group: MultiThreadedEventLoopGroup
  /// This one, then the helpers, in the order of turns.
  private let members: [Member]
  /// How many connections each has.
  private let counts: Mutex<[Int]>

  private struct Member {
    let eventLoop: any EventLoop
    let ioLoop: IOLoop
    let passes: NIOLoopBound<Passes>
  }

  private init(_ group: MultiThreadedEventLoopGroup, _ members: [Member]) {
    self.group = group
    self.members = members
    counts = Mutex(members.map { _ in 0 })
  }

  /// Starts the thread. It runs until ``stop()``.
  ///
  /// - Parameters:
  ///   - backend: which backend transfers go through; `auto` falls back to threads where io_uring
  ///     is refused.
  ///   - transferThreads: how many threads copy within the page cache.
  ///   - helpers: how many further threads serve connections.
  ///   - logger: where the choice of the backend is reported.
  /// - Throws: when the backend that was insisted on is not to be had.
  public static func start(
    backend: BackendChoice = .auto, transferThreads: Int = 2, helpers: Int = 0,
    logger: Logger = Logger(label: "kcopyd")
  ) async throws(IOFailure) -> NetworkLoop {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1 + helpers)
    do {
      var members: [Member] = []
      for eventLoop in group.makeIterator() {
        // Helpers have no devices, and so no transfers.
        members.append(
          try await member(
            on: eventLoop, backend: members.isEmpty ? backend : .threads,
            transferThreads: transferThreads, logger: logger))
      }
      return NetworkLoop(group, members)
    } catch {
      try? await group.shutdownGracefully()
      throw (error as? IOFailure)
        ?? IOFailure(.startLoop, "a network event loop", errno: .ioError, detail: "\(error)")
    }
  }

  private static func member(
    on eventLoop: any EventLoop, backend: BackendChoice, transferThreads: Int, logger: Logger
  ) async throws -> Member {
    let (ioLoop, event, passes) = try await eventLoop.submit {
      let passes = Passes(eventLoop)
      let bound = NIOLoopBound(passes, eventLoop: eventLoop)
      let host = LoopHost { eventLoop.execute { bound.value.run() } }
      let ioLoop = try IOLoop.hosted(
        backend: backend, transferThreads: transferThreads, logger: logger, by: host)
      passes.loop = ioLoop
      return (ioLoop, try ioLoop.completionEvent?.duplicate(), bound)
    }.get()
    if let event { try await watch(event, passes, on: eventLoop) }
    return Member(eventLoop: eventLoop, ioLoop: ioLoop, passes: passes)
  }

  /// Has completed transfers lead to a pass: their event is one more thing to read from.
  private static func watch(
    _ event: SystemPackage.FileDescriptor, _ passes: NIOLoopBound<Passes>,
    on eventLoop: any EventLoop
  ) async throws {
    do {
      let channel = try await NIOPipeBootstrap(group: eventLoop)
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

  // MARK: Connections

  /// The loop of the thread that a connection has been dealt.
  func ioLoop(of eventLoop: any EventLoop) -> IOLoop {
    members.first { $0.eventLoop === eventLoop }?.ioLoop ?? ioLoop
  }

  /// Connections have come to a loop, or left it: the next one goes to where there are the fewest,
  /// and rather to the devices than to a helper.
  func note(_ change: Int, on loop: IOLoop) {
    counts.withLock { counts in
      guard let index = members.firstIndex(where: { $0.ioLoop === loop }) else { return }
      counts[index] += change
      guard members.count > 1 else { return }
      let fewest = counts.indices.min { counts[$0] < counts[$1] } ?? 0
      let before = members[(fewest + members.count - 1) % members.count].eventLoop
      // As long as it takes in a round of turns: others take turns here, too.
      for _ in members.indices where group.next() === before { break }
    }
  }

  /// Whether a loop has one connection.
  func isAlone(on loop: IOLoop) -> Bool {
    counts.withLock { counts in
      members.firstIndex { $0.ioLoop === loop }.map { counts[$0] == 1 } ?? false
    }
  }

  // MARK: Ending

  /// Ends the thread when the work at hand is done. Nothing may be under way or come after it.
  public func stop() async {
    for member in members {
      member.ioLoop.stop()
      let hasEnded = member.eventLoop.makePromise(of: Void.self)
      member.eventLoop.execute { member.passes.value.whenEnded(hasEnded) }
      try? await hasEnded.futureResult.get()
    }
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
