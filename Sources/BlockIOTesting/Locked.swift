import Synchronization

/// A value that several tasks of a test change: a `Mutex` that closures can share.
public final class Locked<Value: Sendable>: Sendable {
  private let mutex: Mutex<Value>

  /// Holds `value`.
  public init(_ value: Value) { mutex = Mutex(value) }

  /// The value now.
  public var value: Value { mutex.withLock { $0 } }

  /// Changes the value, alone.
  public func withLock<R: Sendable>(_ body: (inout sending Value) throws -> sending R) rethrows -> R
  {
    try mutex.withLock(body)
  }
}
