import CBlockIO
import HeapModule
public import Logging
import Synchronization
public import SystemPackage

// @unchecked Sendable: `local` is touched on the loop's thread only, which every access checks by
// `isCurrent` or by being called from `run`; everything else is constant or behind the mutex.

/// One thread that runs tasks and owns one I/O backend.
///
/// A loop is the executor of everything above: the actors of the engine name it as theirs, tasks
/// prefer it, so that plain `async` code runs on this thread – a read suspends, the loop submits
/// it, its completion resumes the task here. No locks, no thread hops. The loop's ``now`` and
/// ``sleep(for:)`` are the only time such code knows, which is what lets the simulated backend run
/// it all deterministically.
public final class IOLoop: TaskExecutor, @unchecked Sendable {
  /// What the backend is called: `uring`, `threads`, `simulated`.
  public let backendName: String

  /// How many threads copy within the page cache.
  public let transferThreads: Int

  let transferPool: WorkerPool
  let blockingPool: WorkerPool

  private let shared: Mutex<Shared>
  private let waker: LoopWaker
  private let thread = Atomic<UInt>(0)
  private let local: Local
  private let isolation = LoopIsolation()
  /// Whose thread this is, unless it is the loop's own.
  private let host: LoopHost?

  /// What other threads hand in.
  private struct Shared {
    var jobs: [Job] = []
    var requests: [(TransferRequest, UnsafeContinuation<Int, Never>)] = []
    var isAsleep = false
    var isStopping = false

    var isEmpty: Bool { jobs.isEmpty && requests.isEmpty }
  }

  /// What only the loop's thread touches.
  private final class Local {
    let backend: any IOBackend
    var ready: [Job] = []
    var running: [Job] = []
    var timers = Heap<LoopTimer>()
    var timerCount: UInt64 = 0
    /// Hosted: a pass is under way or has been asked for.
    var hasPass = false
    /// Hosted: what the host is to watch.
    var completionEvent: FileDescriptor?

    init(_ backend: any IOBackend) { self.backend = backend }
  }

  /// What is to run: a part of a task.
  private struct Job {
    let job: UnownedJob
    /// Whether it belongs to an actor.
    let isIsolated: Bool
  }

  private init(
    _ backend: any IOBackend, transferThreads: Int, blockingThreads: Int, host: LoopHost? = nil
  ) {
    backendName = backend.name
    self.host = host
    // A host sleeps on what is its own.
    waker = host.map { LoopWaker($0.requestPass) } ?? backend.waker
    local = Local(backend)
    shared = Mutex(Shared(isAsleep: host != nil))
    self.transferThreads = transferThreads
    transferPool = WorkerPool(name: "kcopyd-copy", maximum: transferThreads)
    blockingPool = WorkerPool(name: "kcopyd-block", maximum: blockingThreads)
    isolation.join(self)
  }

  // MARK: Starting and stopping

  /// Starts a loop on a thread of its own. It runs until ``stop()``.
  ///
  /// - Parameters:
  ///   - backend: which backend; `auto` says once in the log when io_uring is refused.
  ///   - transferThreads: how many threads copy within the page cache; two are the fastest on two
  ///     cores and four add nothing.
  ///   - logger: where the choice of the backend is reported.
  /// - Throws: when the backend that was insisted on is not to be had.
  public static func start(
    backend: BackendChoice = .auto, transferThreads: Int = 2,
    logger: Logger = Logger(label: "kcopyd")
  ) throws(IOFailure) -> IOLoop {
    let started = StartSignal()
    do throws(Errno) {
      try startThread(named: "kcopyd-loop") {
        // On this very thread, because a ring takes requests from its creator only.
        let backend = Result { () throws(IOFailure) in try makeBackend(backend, logger: logger) }
        switch backend {
        case .failure(let failure): started.signal(.failure(failure))
        case .success(let backend):
          let loop = make(backend, transferThreads: transferThreads)
          started.signal(.success(loop))
          _ = loop.run { false }
        }
      }
    } catch {
      throw IOFailure(.startLoop, "a new thread", errno: error)
    }
    return try started.wait().get()
  }

  /// Makes a loop that the calling thread hosts: a thread with an event loop of its own, which
  /// calls ``pass()`` whenever the loop asks for it, and when ``completionEvent`` has become
  /// readable or ``nextDeadline`` has come.
  ///
  /// What the thread does between passes counts as on the loop: it may start tasks there, and
  /// these requests.
  ///
  /// - Parameters:
  ///   - backend: as for ``start(backend:transferThreads:logger:)``.
  ///   - transferThreads: as there.
  ///   - logger: as there.
  ///   - host: how to ask for a pass.
  /// - Throws: when the backend that was insisted on is not to be had.
  public static func hosted(
    backend: BackendChoice = .auto, transferThreads: Int = 2,
    logger: Logger = Logger(label: "kcopyd"), by host: LoopHost
  ) throws(IOFailure) -> IOLoop {
    let backend = try makeBackend(backend, logger: logger)
    let loop = make(backend, transferThreads: transferThreads, host: host)
    do throws(Errno) {
      loop.local.completionEvent = try backend.signalCompletions()
    } catch {
      throw IOFailure(.startLoop, backend.name, errno: error)
    }
    return loop
  }

  /// A loop of the calling thread.
  private static func make(
    _ backend: any IOBackend, transferThreads: Int, host: LoopHost? = nil
  ) -> IOLoop {
    let loop = IOLoop(
      backend, transferThreads: transferThreads, blockingThreads: 16, host: host)
    (backend as? ThreadBackend)?.pool = loop.blockingPool
    loop.claimThread()
    return loop
  }

  /// Ends the loop when the work at hand is done. Nothing may be under way or come after it.
  public func stop() {
    shared.withLock { $0.isStopping = true }
    waker.wake()
  }

  /// Runs `body` and everything it starts on the calling thread, until `body` has returned.
  ///
  /// For simulations: with a backend of virtual time the same body does the same each time.
  ///
  /// - Throws: ``LoopStalled`` when `body` waits for something that can't happen any more.
  public static func run<R: Sendable>(
    on backend: any IOBackend, _ body: @escaping @Sendable (IOLoop) async -> R
  ) throws(LoopStalled) -> R {
    let loop = IOLoop(backend, transferThreads: 1, blockingThreads: 1)
    loop.claimThread()
    let result = Mutex<R?>(nil)
    Task(executorPreference: loop) {
      let value = await body(loop)
      result.withLock { $0 = value }
    }
    let hasEnded = loop.run { result.withLock { $0 != nil } }
    guard hasEnded, let value = result.withLock({ $0 }) else { throw LoopStalled() }
    return value
  }

  // MARK: Time

  /// The time. On the loop only.
  public var now: LoopInstant {
    preconditionIsCurrent()
    return local.backend.now
  }

  /// Suspends the task for that long. On the loop only; not cut short by cancellation, so sleep in
  /// slices.
  public func sleep(for duration: Duration) async {
    preconditionIsCurrent()
    let deadline = local.backend.now.advanced(by: duration)
    await withUnsafeContinuation { continuation in
      local.timerCount += 1
      local.timers.insert(
        LoopTimer(deadline: deadline, number: local.timerCount, continuation: continuation))
      requestPass()
    }
  }

  // MARK: Work

  /// Runs calls that block on one of a bounded number of threads.
  public func blocking<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
    await withUnsafeContinuation { continuation in
      blockingPool.run { continuation.resume(returning: body()) }
    }
  }

  /// Runs a copy within the page cache on one of the threads for that.
  func transferring<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
    await withUnsafeContinuation { continuation in
      transferPool.run { continuation.resume(returning: body()) }
    }
  }

  /// Does one transfer through the backend: the number of bytes, or a negative errno.
  func transfer(_ request: TransferRequest) async -> Int {
    await withUnsafeContinuation { continuation in
      if isCurrent {
        local.backend.submit(request, completion: continuation)
        requestPass()
      } else {
        post { $0.requests.append((request, continuation)) }
      }
    }
  }

  // MARK: Executor

  /// Runs a part of a task on this loop, behind what is ready.
  public func enqueue(_ job: consuming ExecutorJob) { enqueue(job, isIsolated: false) }

  func enqueue(_ job: consuming ExecutorJob, isIsolated: Bool) {
    let job = Job(job: UnownedJob(job), isIsolated: isIsolated)
    if isCurrent {
      local.ready.append(job)
      requestPass()
    } else {
      post { $0.jobs.append(job) }
    }
  }

  /// The loop as the executor of actors.
  public func asUnownedSerialExecutor() -> UnownedSerialExecutor {
    UnownedSerialExecutor(ordinary: isolation)
  }

  public func asUnownedTaskExecutor() -> UnownedTaskExecutor {
    UnownedTaskExecutor(ordinary: self)
  }

  /// Whether the caller runs on the loop's thread.
  public var isCurrent: Bool {
    thread.load(ordering: .relaxed) == UInt(blockio_current_thread())
  }

  func preconditionIsCurrent() {
    precondition(isCurrent, "only to be used on its I/O loop")
  }

  private func claimThread() {
    thread.store(UInt(blockio_current_thread()), ordering: .relaxed)
  }

  /// Hands something in from another thread.
  private func post(_ change: (inout Shared) -> Void) {
    let wasAsleep = shared.withLock { shared in
      change(&shared)
      defer { shared.isAsleep = false }
      return shared.isAsleep
    }
    if wasAsleep { waker.wake() }
  }

  // MARK: The loop

  /// One pass after the other: what others handed in, ready jobs, timers, I/O.
  ///
  /// - Returns: false when the backend knows that nothing can happen any more.
  private func run(until isDone: () -> Bool) -> Bool {
    defer { end() }
    while true {
      let isStopping = takeShared()
      runReady()
      fireTimers()
      if isDone() || (isStopping && local.ready.isEmpty) { return true }
      if !local.backend.poll(nextWait()) && local.ready.isEmpty { return false }
    }
  }

  private func runReady() {
    let actors = asUnownedSerialExecutor()
    let task = asUnownedTaskExecutor()
    // Jobs that become ready meanwhile have the next pass, so that I/O isn't starved.
    swap(&local.ready, &local.running)
    for ready in local.running {
      if ready.isIsolated {
        ready.job.runSynchronously(isolatedTo: actors, taskExecutor: task)
      } else {
        ready.job.runSynchronously(on: task)
      }
    }
    local.running.removeAll(keepingCapacity: true)
  }

  private func end() {
    // The number may be given to another thread.
    thread.store(0, ordering: .relaxed)
    transferPool.close()
    blockingPool.close()
  }

  private func takeShared() -> Bool {
    // Taken in one piece; requests go to the backend outside of the lock.
    var requests: [(TransferRequest, UnsafeContinuation<Int, Never>)] = []
    let isStopping = shared.withLock { shared in
      // A host sleeps when it likes to: from here on it has to be asked for the next pass.
      shared.isAsleep = host != nil
      local.ready.append(contentsOf: shared.jobs)
      shared.jobs.removeAll(keepingCapacity: true)
      swap(&requests, &shared.requests)
      return shared.isStopping
    }
    for (request, completion) in requests {
      local.backend.submit(request, completion: completion)
    }
    return isStopping
  }

  private func fireTimers() {
    guard !local.timers.isEmpty else { return }
    let now = local.backend.now
    while let timer = local.timers.min, timer.deadline <= now {
      local.timers.removeMin()
      timer.continuation.resume()
    }
  }

  private func nextWait() -> LoopWait {
    guard local.ready.isEmpty else { return .none }
    let maySleep = shared.withLock { shared in
      shared.isAsleep = shared.isEmpty && !shared.isStopping
      return shared.isAsleep
    }
    guard maySleep else { return .none }
    return local.timers.min.map { .until($0.deadline) } ?? .untilWoken
  }

  // MARK: Hosted

  /// Becomes readable when requests have completed, and may be read by the host. nil where the
  /// loop asks for its passes itself. The descriptor is the loop's: duplicate it. On the loop only.
  public var completionEvent: FileDescriptor? {
    preconditionIsCurrent()
    return local.completionEvent
  }

  /// When the next timer is due. On the loop only.
  public var nextDeadline: LoopInstant? {
    preconditionIsCurrent()
    return local.timers.min?.deadline
  }

  /// Does everything that is ready, starts what was submitted, completes what is done, and never
  /// waits. For the host of the loop, on its thread.
  ///
  /// - Returns: false when the loop was stopped and has ended: no further pass may follow.
  public func pass() -> Bool {
    preconditionIsCurrent()
    precondition(host != nil, "a pass of a loop with a thread of its own")
    local.hasPass = true
    // What follows from this pass belongs to it, within reason: then the host has its turn.
    for _ in 0..<16 {
      let isStopping = takeShared()
      runReady()
      fireTimers()
      if isStopping && local.ready.isEmpty {
        end()
        return false
      }
      _ = local.backend.poll(.none)
      if local.ready.isEmpty { break }
    }
    local.hasPass = false
    if !local.ready.isEmpty { requestPass() }
    return true
  }

  private func requestPass() {
    guard let host, !local.hasPass else { return }
    local.hasPass = true
    host.requestPass()
  }
}
