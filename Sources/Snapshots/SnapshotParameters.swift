public import BlockIO

/// What kind of store a snapshot has: the `P`, `PO` or `N` of its table line.
public enum StoreKind: String, Sendable {
  /// On the COW device, in the kernel's format; a snapshot without room is lost.
  case persistent = "P"
  /// The same, but a write to the snapshot itself that finds no room only ends writing to it.
  case persistentWithOverflow = "PO"
  /// Exceptions in memory only: the snapshot ends with the process.
  case transient = "N"

  /// Whether there is anything to be found on the COW device later.
  public var isPersistent: Bool { self != .transient }
}

/// What a snapshot is made with, apart from its two devices.
///
/// The first four are what a table line says; the others are this program's own.
public struct SnapshotParameters: Hashable, Sendable {
  /// The kind of store.
  public var store: StoreKind
  /// The size of a chunk; nil for the default of a persistent store: 16 KiB, or the COW device's
  /// logical block if that is larger. A store that exists keeps its own.
  public var chunkSize: ChunkSize?
  /// Discards of the snapshot zero what it has in its COW device.
  public var discardZeroesCow = false
  /// Discards of the snapshot go to the origin, too.
  public var discardPassdownOrigin = false

  /// What is done when the COW device is full.
  public var whenFull = FullPolicy.invalidate
  /// The size up to which the COW device is made larger when it is full; nil: it isn't.
  public var growthLimit: Sector?
  /// How many chunks may be on their way to the COW device before writers have to wait: the
  /// kernel's `snapshot_cow_threshold`.
  public var copiesInFlight = 2048

  /// What is done when an origin write needs a chunk and there is no room for it.
  public enum FullPolicy: Hashable, Sendable {
    /// The snapshot becomes invalid at once, as in the kernel.
    case invalidate
    /// The origin write waits for room, at most that long; then the snapshot becomes invalid.
    case hold(atMost: Duration)
  }

  /// Parameters.
  public init(store: StoreKind = .persistent, chunkSize: ChunkSize? = nil) {
    self.store = store
    self.chunkSize = chunkSize
  }

  /// Reads the words that follow the two devices in a table line:
  /// `P|PO|N chunk [count feature…]`.
  ///
  /// Letters after those looked at are ignored, and so are words after the features, as the kernel
  /// does.
  ///
  /// - Throws: what is wrong with them, in the terms of the table.
  public init(words: [String]) throws(SnapshotError) {
    guard words.count >= 2 else { throw .arguments("store and chunk size are missing") }
    store = try Self.storeKind(words[0])
    guard let sectors = UInt32(words[1]) else {
      throw .arguments("'\(words[1])' is no chunk size in sectors")
    }
    if sectors == 0 {
      guard store.isPersistent else { throw .arguments("a transient store needs a chunk size") }
    } else {
      guard let size = ChunkSize(Sector(UInt64(sectors))) else {
        throw .arguments("a chunk size of \(sectors) sectors: \(SnapshotError.chunkRule)")
      }
      chunkSize = size
    }
    try readFeatures(words.dropFirst(2))
  }

  private static func storeKind(_ word: String) throws(SnapshotError) -> StoreKind {
    var letters = word.uppercased().makeIterator()
    switch letters.next() {
    case "N": return .transient
    case "P":
      switch letters.next() {
      case nil: return .persistent
      case "O": return .persistentWithOverflow
      default: throw .arguments("'\(word)' is no store; P, PO or N")
      }
    default: throw .arguments("'\(word)' is no store; P, PO or N")
    }
  }

  private mutating func readFeatures(_ words: ArraySlice<String>) throws(SnapshotError) {
    guard let first = words.first else { return }
    guard let count = Int(first), 0...2 ~= count else {
      throw .arguments("'\(first)' is no number of features; 0 to 2")
    }
    let features = words.dropFirst().prefix(count)
    guard features.count == count else { throw .arguments("fewer features than announced") }
    for feature in features {
      switch feature.lowercased() {
      case "discard_zeroes_cow": discardZeroesCow = true
      case "discard_passdown_origin": discardPassdownOrigin = true
      default: throw .arguments("unknown feature '\(feature)'")
      }
    }
    if discardPassdownOrigin && !discardZeroesCow {
      throw .arguments("discard_passdown_origin needs discard_zeroes_cow")
    }
  }

  /// The same words in the way the kernel prints them, with the chunk size in use.
  func words(chunkSize: ChunkSize) -> String {
    var words = "\(store.rawValue) \(chunkSize.sectors.rawValue)"
    if discardPassdownOrigin {
      words += " 2 discard_zeroes_cow discard_passdown_origin"
    } else if discardZeroesCow {
      words += " 1 discard_zeroes_cow"
    }
    return words
  }
}
