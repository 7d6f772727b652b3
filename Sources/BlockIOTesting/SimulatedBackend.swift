import BlockIO
import Synchronization

/// A backend in which time passes only when everything waits for it: simulations of hours take
/// milliseconds and do the same each time.
///
/// It transfers nothing: files aren't simulated, devices are (``SimulatedDisk``). What runs on it
/// must stay on its loop; a plain `Task {}` or ``IOLoop/blocking(_:)`` leaves it, and the order of
/// what other threads do is not the simulation's to decide.
public final class SimulatedBackend: IOBackend {
  /// `simulated`.
  public let name = "simulated"
  /// Notes that someone handed in work.
  public let waker: LoopWaker
  /// The virtual time.
  public private(set) var now: LoopInstant

  private final class Wakeup: Sendable {
    let isRequested = Atomic<Bool>(false)
  }

  private let wakeup: Wakeup

  /// A backend whose clock starts at `now`.
  public init(now: LoopInstant = LoopInstant(nanoseconds: 0)) {
    self.now = now
    let wakeup = Wakeup()
    self.wakeup = wakeup
    waker = LoopWaker { wakeup.isRequested.store(true, ordering: .relaxed) }
  }

  /// Not supported: files are not simulated.
  public func submit(_ request: TransferRequest, completion: UnsafeContinuation<Int, Never>) {
    preconditionFailure("files can't be used in a simulation")
  }

  /// Lets the time pass to what is waited for.
  ///
  /// - Returns: false when nothing is.
  public func poll(_ wait: LoopWait) -> Bool {
    if wakeup.isRequested.exchange(false, ordering: .relaxed) { return true }
    switch wait {
    case .none: return true
    case .until(let deadline):
      now = max(now, deadline)
      return true
    case .untilWoken: return false
    }
  }
}

/// Runs `body` and everything it starts in virtual time, on the calling thread.
///
/// The same body does the same each time – unless it iterates over a `Set` or `Dictionary`, whose
/// order differs from process to process.
///
/// - Throws: what `body` throws; ``LoopStalled`` when it waits for what can't happen any more.
public func simulate<R: Sendable>(
  _ body: @escaping @Sendable (IOLoop) async throws -> R
) throws -> R {
  let result = try IOLoop.run(on: SimulatedBackend()) { loop in
    do {
      return Result<R, any Error>.success(try await body(loop))
    } catch {
      return .failure(error)
    }
  }
  return try result.get()
}
