import BlockIO
import Dispatch
import Synchronization
import SystemPackage

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// The one loop of the process, on which all clients work. Started by the first use, never
/// stopped.
enum SharedLoop {
  private static let started: Result<IOLoop, IOFailure> = withSignalsBlocked {
    Result { () throws(IOFailure) in try IOLoop.start() }
  }

  /// The loop.
  static func get() throws(Errno) -> IOLoop {
    do throws(IOFailure) {
      return try started.get()
    } catch {
      throw error.errno
    }
  }

  /// Runs `body` on the loop and waits for it.
  ///
  /// - Throws: `EDEADLK` on the loop itself – that is, in a notification – because it would wait
  ///   for something that can't happen before it has returned.
  static func wait<R: Sendable>(
    for body: @escaping @Sendable () async -> R
  ) throws(Errno) -> R {
    let loop = try get()
    guard !loop.isCurrent else { throw .deadlock }
    let answer = Answer<R>()
    Task(executorPreference: loop) { answer.give(await body()) }
    return answer.wait()
  }
}

/// Carries one value from the loop to a thread that blocks until it is there.
private final class Answer<Value: Sendable>: Sendable {
  private let value = Mutex<Value?>(nil)
  private let semaphore = DispatchSemaphore(value: 0)

  func give(_ value: Value) {
    self.value.withLock { $0 = value }
    semaphore.signal()
  }

  func wait() -> Value {
    semaphore.wait()
    guard let value = value.withLock({ $0 }) else {
      preconditionFailure("signalled without an answer")
    }
    return value
  }
}

/// Runs `body` so that threads it starts, and threads those start, get no signals: they are the
/// program's, which may wait for them in a thread of its own.
private func withSignalsBlocked<R>(_ body: () -> R) -> R {
  var blocked = sigset_t()
  sigfillset(&blocked)
  // Faults of a thread itself can't wait.
  for fault in [SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT] { sigdelset(&blocked, fault) }
  var before = sigset_t()
  pthread_sigmask(SIG_BLOCK, &blocked, &before)
  defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
  return body()
}
