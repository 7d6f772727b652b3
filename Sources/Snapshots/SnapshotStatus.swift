public import BlockIO

/// How a snapshot is doing.
public struct SnapshotStatus: Hashable, Sendable {
  /// Whether it can be used.
  public enum Condition: Hashable, Sendable {
    /// All is well.
    case valid
    /// It is lost; why, in words.
    case invalid(String)
    /// Its merge has stopped at an error; it goes on with a new snapshot on the same store.
    case mergeFailed(String)
    /// It can still be read, but no longer written.
    case overflowed
  }

  /// Whether it can be used.
  public var condition: Condition
  /// Sectors of the COW device in use: header, areas, data, and copies under way.
  public var allocated: Sector
  /// Sectors of the COW device.
  public var total: Sector
  /// Sectors of header and areas. Equal to ``allocated`` when there is no exception (left).
  public var metadata: Sector
  /// Chunks that have been copied or written.
  public var exceptions: UInt64
  /// Memory that the exceptions take, in bytes.
  public var exceptionMemory: Int
  /// How many origin writes wait for room in the COW device.
  public var held: Int

  /// The status line of dmsetup from behind the target's name on, letter for letter; origin
  /// writes that wait for room – the kernel has none – are shown behind it.
  public var line: String {
    switch condition {
    case .invalid: "Invalid"
    case .mergeFailed: "Merge failed"
    case .overflowed: "Overflow"
    case .valid:
      "\(allocated.rawValue)/\(total.rawValue) \(metadata.rawValue)"
        + (held > 0 ? " held \(held)" : "")
    }
  }
}

/// What happened to a snapshot.
public enum SnapshotEvent: Hashable, Sendable {
  /// It is lost, and why. The only one that the kernel signals.
  case invalidated(String)
  /// It can no longer be written.
  case overflowed
  /// Origin writes wait for room in its COW device.
  case holding
  /// Its COW device was made larger, to that size.
  case grown(Sector)
  /// It has been merged into the origin.
  case merged
  /// Its merge stopped at an error.
  case mergeFailed(String)
}
