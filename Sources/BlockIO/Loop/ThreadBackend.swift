import CBlockIO
import Dispatch
import Logging
import Synchronization
import SystemPackage

/// Every transfer as a blocking call on a thread: macOS, and Linux without io_uring.
final class ThreadBackend: IOBackend {
  let name = BackendChoice.threads.rawValue
  let waker: LoopWaker
  /// The threads; the loop's own, set before the first request.
  var pool: WorkerPool?

  private let semaphore = DispatchSemaphore(value: 0)

  init() {
    waker = LoopWaker { [semaphore] in semaphore.signal() }
  }

  var now: LoopInstant { .monotonic }

  func submit(_ request: TransferRequest, completion: UnsafeContinuation<Int, Never>) {
    guard let pool else { preconditionFailure("a thread backend without threads") }
    pool.run {
      // The buffer lives until `completion` is resumed; see `TransferRequest`.
      let bytes = request.buffer.count
      let base = request.buffer.baseAddress
      let fd = request.file.rawValue
      let result =
        switch request.direction {
        case .read: blockio_pread(fd, base, bytes, request.offset)
        case .write: blockio_pwrite(fd, base, bytes, request.offset)
        case .writeDurably: blockio_pwrite_durable(fd, base, bytes, request.offset)
        }
      completion.resume(returning: result)
    }
  }

  func poll(_ wait: LoopWait) -> Bool {
    switch wait {
    case .none: break
    case .untilWoken: semaphore.wait()
    case .until(let deadline):
      let rest = now.duration(to: deadline).nanoseconds
      if rest > 0 { _ = semaphore.wait(timeout: .now() + .nanoseconds(Int(rest))) }
    }
    return true
  }
}

/// The backend that was asked for. On the thread of the loop that will own it.
func makeBackend(_ choice: BackendChoice, logger: Logger) throws(IOFailure) -> any IOBackend {
  #if os(Linux)
    guard choice != .threads else { return ThreadBackend() }
    do throws(Errno) {
      return try RingBackend(depth: 256)
    } catch {
      guard choice == .auto else {
        throw IOFailure(.startLoop, "io_uring", errno: error)
      }
      logger.notice("io_uring is not available (\(error)); using blocking calls on threads")
      return ThreadBackend()
    }
  #else
    guard choice != .uring else {
      throw IOFailure(.startLoop, "io_uring", errno: .notSupported, detail: "Linux only")
    }
    return ThreadBackend()
  #endif
}
