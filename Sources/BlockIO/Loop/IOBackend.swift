import CBlockIO
public import SystemPackage

/// A point in the time of a loop: nanoseconds since an arbitrary but fixed start.
public struct LoopInstant: InstantProtocol, Hashable, Sendable {
  /// Nanoseconds since the start.
  public let nanoseconds: Int64

  /// That many nanoseconds after the start.
  public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  public static func < (left: LoopInstant, right: LoopInstant) -> Bool {
    left.nanoseconds < right.nanoseconds
  }

  public func advanced(by duration: Duration) -> LoopInstant {
    LoopInstant(nanoseconds: nanoseconds + duration.nanoseconds)
  }

  public func duration(to other: LoopInstant) -> Duration {
    .nanoseconds(other.nanoseconds - nanoseconds)
  }

  /// The same as a plain number, for where each request is counted: a duration has 128 bits.
  public func nanoseconds(to other: LoopInstant) -> Int64 { other.nanoseconds - nanoseconds }
}

extension Duration {
  /// Whole nanoseconds; at most what fits.
  public var nanoseconds: Int64 {
    let (seconds, attoseconds) = components
    let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    if overflow { return seconds < 0 ? .min : .max }
    return product + attoseconds / 1_000_000_000
  }
}

// @unchecked Sendable: the buffer is an address, and its memory belongs to this request until it
// has completed.

/// One transfer between a file and memory, to be done by a backend.
public struct TransferRequest: @unchecked Sendable {
  /// Which way the bytes go.
  public enum Direction: Sendable {
    case read, write
    /// A write that has completed only when it is durable.
    case writeDurably
  }

  let direction: Direction
  let file: FileDescriptor
  /// Lives until the request has completed: the awaiting caller holds its owner.
  let buffer: UnsafeMutableRawBufferPointer
  let offset: UInt64

  // The address of memory whose owner awaits this very request; see `buffer`.
  init(
    _ direction: Direction, _ file: FileDescriptor, _ buffer: UnsafeMutableRawBufferPointer,
    at offset: UInt64
  ) {
    self.direction = direction
    self.file = file
    self.buffer = buffer
    self.offset = offset
  }
}

/// How long a backend may wait for something to happen.
public enum LoopWait: Sendable {
  /// Not at all.
  case none
  /// Until something happens or that time has come.
  case until(LoopInstant)
  /// Until something happens.
  case untilWoken
}

/// What an ``IOLoop`` stands on: where transfers go, what it sleeps on, what time it is.
///
/// All functions but those of the ``LoopWaker`` are called on the loop's thread only.
public protocol IOBackend: AnyObject {
  /// What it is called on the command line and in logs.
  var name: String { get }
  /// Wakes the loop from any thread.
  var waker: LoopWaker { get }
  /// The time.
  var now: LoopInstant { get }
  /// Starts a transfer. `completion` gets the number of bytes, or a negative errno.
  func submit(_ request: TransferRequest, completion: UnsafeContinuation<Int, Never>)
  /// Starts what was submitted, completes what is done, and waits if told to and nothing was.
  ///
  /// - Returns: false when nothing can ever happen again: no transfer under way, no time to wait
  ///   for, no one who could wake it. Real backends never know that.
  func poll(_ wait: LoopWait) -> Bool
  /// Called once, first, if the loop is hosted: what becomes readable when a transfer is done; nil
  /// where completions come to the loop by themselves. `poll` is never told to wait then.
  func signalCompletions() throws(Errno) -> FileDescriptor?
}

extension IOBackend {
  public func signalCompletions() throws(Errno) -> FileDescriptor? { nil }
}

/// Wakes a loop that waits in its backend. May be called from any thread, at any time.
public struct LoopWaker: Sendable {
  let wake: @Sendable () -> Void

  /// A waker that calls `wake`.
  public init(_ wake: @escaping @Sendable () -> Void) { self.wake = wake }
}

/// Which backend a loop takes.
public enum BackendChoice: String, Sendable, CaseIterable {
  /// io_uring where the kernel lets it, otherwise threads.
  case auto
  /// io_uring or nothing.
  case uring
  /// Blocking calls on a bounded number of threads.
  case threads
}

extension LoopInstant {
  /// The time of the backends that aren't simulated, for those who are on no loop.
  package static var monotonic: LoopInstant {
    LoopInstant(nanoseconds: blockio_monotonic_nanoseconds())
  }
}
