/// Requests of a kind, counted.
public struct RequestCount: Hashable, Sendable {
  /// Requests that have ended well.
  public private(set) var operations: UInt64 = 0
  /// Bytes of these.
  public private(set) var bytes: UInt64 = 0
  /// Requests that have failed.
  public private(set) var errors: UInt64 = 0
  /// The time that all of them took, in nanoseconds.
  public private(set) var nanoseconds: UInt64 = 0

  /// None yet.
  public init() {}

  /// One more has ended.
  ///
  /// - Parameters:
  ///   - bytes: how many it was about; they count only if it is done.
  ///   - nanoseconds: how long it took.
  ///   - isDone: whether it ended well.
  public mutating func note(bytes: UInt64, nanoseconds: Int64, isDone: Bool) {
    if isDone {
      operations += 1
      self.bytes += bytes
    } else {
      errors += 1
    }
    self.nanoseconds += UInt64(max(0, nanoseconds))
  }
}
