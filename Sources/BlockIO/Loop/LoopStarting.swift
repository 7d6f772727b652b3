import Dispatch
import Synchronization

// Who runs a loop, how it starts, and when it can't go on.

/// Who lends a loop its thread.
public struct LoopHost: Sendable {
  let requestPass: @Sendable () -> Void

  /// A host that calls ``IOLoop/pass()`` on the loop's thread soon after `requestPass` was called,
  /// which may be from any thread. Not from within it.
  public init(requestPass: @escaping @Sendable () -> Void) { self.requestPass = requestPass }
}

/// A simulation waits for something that can't happen: no job is ready, no I/O under way, no
/// timer set.
public struct LoopStalled: Error, CustomStringConvertible {
  /// What it means.
  public var description: String { "stalled: everything waits and nothing is under way" }
}

/// Tells the thread that starts a loop how that went.
final class StartSignal: Sendable {
  private let semaphore = DispatchSemaphore(value: 0)
  private let result = Mutex<Result<IOLoop, IOFailure>?>(nil)

  func signal(_ outcome: Result<IOLoop, IOFailure>) {
    result.withLock { $0 = outcome }
    semaphore.signal()
  }

  /// Waits for the new thread's first steps: bounded, it does nothing but set up its backend.
  func wait() -> Result<IOLoop, IOFailure> {
    semaphore.wait()
    guard let outcome = result.withLock({ $0 }) else {
      preconditionFailure("signalled without a result")
    }
    return outcome
  }
}
