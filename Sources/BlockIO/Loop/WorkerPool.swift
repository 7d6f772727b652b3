import DequeModule
import Dispatch
import Synchronization
import SystemPackage

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
    if needsThread { addThread() }
    available.signal()
  }

  private func addThread() {
    do throws(Errno) {
      try startThread(named: threadName) { self.work() }
    } catch {
      let threads = state.withLock { state in
        state.threads -= 1
        return state.threads
      }
      // With one thread everything gets done, if later. With none, nothing ever would.
      precondition(threads > 0, "cannot start a thread: \(error)")
    }
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
