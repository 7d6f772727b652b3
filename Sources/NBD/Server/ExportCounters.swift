import Synchronization

/// What has been done for the clients of an export, counted since it was made. May be read from any
/// thread.
public final class ExportCounters: Sendable {
  /// The kinds of requests that are told apart.
  public enum Kind: String, Sendable, CaseIterable {
    case read
    case write
    case flush
    case trim
    case zero
    case status
    case cache
  }

  /// The numbers of one kind.
  public struct Numbers: Hashable, Sendable {
    /// Requests answered, failed ones included.
    public var requests: UInt64 = 0
    /// Of them those that failed.
    public var failures: UInt64 = 0
    /// Bytes read or written, or given up, zeroed, asked for.
    public var bytes: UInt64 = 0
    /// From when they were read from the connection until they were answered, in nanoseconds, added
    /// up.
    public var nanoseconds: UInt64 = 0
  }

  private struct Cells: ~Copyable {
    let requests = Atomic<UInt64>(0)
    let failures = Atomic<UInt64>(0)
    let bytes = Atomic<UInt64>(0)
    let nanoseconds = Atomic<UInt64>(0)

    func add(bytes count: UInt64, nanoseconds time: UInt64, hasFailed: Bool) {
      requests.wrappingAdd(1, ordering: .relaxed)
      if hasFailed { failures.wrappingAdd(1, ordering: .relaxed) }
      bytes.wrappingAdd(count, ordering: .relaxed)
      nanoseconds.wrappingAdd(time, ordering: .relaxed)
    }

    var numbers: Numbers {
      Numbers(
        requests: requests.load(ordering: .relaxed), failures: failures.load(ordering: .relaxed),
        bytes: bytes.load(ordering: .relaxed), nanoseconds: nanoseconds.load(ordering: .relaxed))
    }
  }

  private let reads = Cells()
  private let writes = Cells()
  private let flushes = Cells()
  private let trims = Cells()
  private let zeroes = Cells()
  private let statuses = Cells()
  private let caches = Cells()
  private let underWay = Atomic<Int>(0)

  init() {}

  /// Requests that aren't answered yet.
  public var inFlight: Int { underWay.load(ordering: .relaxed) }

  /// The numbers of a kind.
  public subscript(kind: Kind) -> Numbers {
    switch kind {
    case .read: reads.numbers
    case .write: writes.numbers
    case .flush: flushes.numbers
    case .trim: trims.numbers
    case .zero: zeroes.numbers
    case .status: statuses.numbers
    case .cache: caches.numbers
    }
  }

  func begin() { underWay.wrappingAdd(1, ordering: .relaxed) }

  func end(_ kind: Kind, bytes: UInt64, nanoseconds: UInt64, hasFailed: Bool) {
    underWay.wrappingSubtract(1, ordering: .relaxed)
    switch kind {
    case .read: reads.add(bytes: bytes, nanoseconds: nanoseconds, hasFailed: hasFailed)
    case .write: writes.add(bytes: bytes, nanoseconds: nanoseconds, hasFailed: hasFailed)
    case .flush: flushes.add(bytes: bytes, nanoseconds: nanoseconds, hasFailed: hasFailed)
    case .trim: trims.add(bytes: bytes, nanoseconds: nanoseconds, hasFailed: hasFailed)
    case .zero: zeroes.add(bytes: bytes, nanoseconds: nanoseconds, hasFailed: hasFailed)
    case .status: statuses.add(bytes: bytes, nanoseconds: nanoseconds, hasFailed: hasFailed)
    case .cache: caches.add(bytes: bytes, nanoseconds: nanoseconds, hasFailed: hasFailed)
    }
  }
}
