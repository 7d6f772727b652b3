import CBlockIO
import DequeModule
import Dispatch
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// A bounded number of threads for calls that block. Threads come with the work, up to the bound,
/// and go when the pool does.
final class WorkerPool: Sendable {
  typealias Work = @Sendable () -> Void

  private let threadName: String
  private let maximum: Int
  private let state = Mutex(State())
  private let available = DispatchSemaphore(value: 0)

  private struct State {
    var queue: Deque<Work> = []
    var threads = 0
    var idle = 0
    var isClosed = false
  }

  init(name: String, maximum: Int) {
    precondition(maximum > 0)
    threadName = name
    self.maximum = maximum
  }

  /// Runs `work` on one of the threads, in the order of the calls.
  func run(_ work: @escaping Work) {
    let needsThread = state.withLock { state in
      precondition(!state.isClosed, "work for a pool that was closed")
      state.queue.append(work)
      // `idle` counts threads that no queued work has been promised to.
      if state.idle > 0 {
        state.idle -= 1
        return false
      }
      guard state.threads < maximum else { return false }
      state.threads += 1
      return true
    }
    if needsThread { startThread(named: threadName) { self.work() } }
    available.signal()
  }

  /// Lets the threads end when the queue is empty.
  func close() {
    let threads = state.withLock { state in
      state.isClosed = true
      return state.threads
    }
    for _ in 0..<threads { available.signal() }
  }

  private func work() {
    while true {
      available.wait()
      let work: Work? = state.withLock { $0.queue.popFirst() }
      guard let work else {
        // Nothing queued behind a signal: the pool was closed.
        return
      }
      work()
      state.withLock { state in
        // What is queued has its own signal and will be taken without being promised.
        if state.queue.isEmpty { state.idle += 1 }
      }
    }
  }
}

/// Starts a detached thread that runs `body`.
func startThread(named name: String, _ body: @escaping @Sendable () -> Void) {
  final class Start: Sendable {
    let name: String
    let body: @Sendable () -> Void
    init(_ name: String, _ body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }
  // The box is retained here and released by the thread: one owner at a time.
  let start = Unmanaged.passRetained(Start(name, body)).toOpaque()
  #if canImport(Darwin)
    var thread: pthread_t?
  #else
    var thread = pthread_t()
  #endif
  let error = pthread_create(&thread, nil, { argument in
    #if canImport(Darwin)
      let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
    #else
      guard let argument else { return nil }
      let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
    #endif
    blockio_name_thread(start.name)
    start.body()
    return nil
  }, start)
  precondition(error == 0, "cannot start a thread: errno \(error)")
  #if canImport(Darwin)
    if let thread { pthread_detach(thread) }
  #else
    pthread_detach(thread)
  #endif
}
