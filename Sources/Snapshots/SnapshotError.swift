public import BlockIO

/// Why a snapshot was refused. Nothing has been written.
public enum SnapshotError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The words of a table line are wrong.
  case arguments(String)
  /// Origin and COW device are one.
  case originIsCow(String)
  /// The chunk size can't be used with these devices.
  case chunkSize(String)
  /// The snapshot is longer than its origin.
  case originTooSmall(origin: String, sectors: Sector, needed: Sector)
  /// The store is foreign or damaged.
  case damaged(StoreDamage)
  /// There is no store, and none may be made: the device is only read.
  case noStore(device: String)
  /// The device can't be read or written.
  case io(IOFailure)
  /// The store is in use already, or a step came out of turn.
  case state(String)

  /// One line.
  public var description: String {
    switch self {
    case .arguments(let text), .state(let text), .chunkSize(let text): text
    case .originIsCow(let name): "origin and COW device are the same, or share sectors: '\(name)'"
    case .originTooSmall(let origin, let sectors, let needed):
      "'\(origin)' has \(sectors.rawValue) sectors; \(needed.rawValue) are needed"
    case .damaged(let damage): damage.description
    case .noStore(let device):
      "'\(device)' holds no snapshot store: its first four bytes are zero"
    case .io(let failure): failure.description
    }
  }

  static let chunkRule = "it must be a power of two up to \(ChunkSize.maximum.rawValue)"
}

/// What is wrong with a store, and where.
public struct StoreDamage: Error, Hashable, Sendable, CustomStringConvertible {
  /// What is wrong.
  public enum Reason: Hashable, Sendable {
    /// The magic is neither that of a store nor zero.
    case foreignMagic(UInt32)
    /// A version that is not known.
    case version(UInt32)
    /// A chunk size, in sectors, that can't be.
    case chunkSize(UInt32, rule: String)
    /// The device ends before header and first area.
    case truncated(chunksNeeded: UInt64)
    /// Every area is full, and the device ends where the next one should be.
    case noTerminator
    /// An exception for a chunk beyond the end of the origin.
    case beyondOrigin(Exception)
    /// An exception whose data would lie beyond the end of the COW device.
    case beyondCow(Exception)
    /// An exception whose data would lie in the header or an area.
    case inMetadata(Exception)
    /// A second exception for the same chunk of the origin.
    case originChunkTwice(Exception)
    /// A second exception with its data in the same chunk.
    case cowChunkTwice(Exception)
  }

  /// The device.
  public let device: String
  /// The byte on it at which the wrong value begins.
  public let offset: UInt64
  /// What is wrong.
  public let reason: Reason

  /// One line: device, byte, what.
  public var description: String { "'\(device)' byte \(offset): \(reason)" }
}

extension StoreDamage.Reason: CustomStringConvertible {
  /// What is wrong, in words.
  public var description: String {
    switch self {
    case .foreignMagic(let magic):
      "not a snapshot store: it begins with 0x\(String(magic, radix: 16)) instead of 'SnAp'"
    case .version(let version): "version \(version) of the format isn't known; 1 is"
    case .chunkSize(let sectors, let rule): "a chunk size of \(sectors) sectors: \(rule)"
    case .truncated(let needed):
      "the device ends before header and first area: \(needed) chunks are needed"
    case .noTerminator: "all areas are full, and the device ends where the next one should be"
    case .beyondOrigin(let exception):
      "chunk \(exception.old.rawValue) lies beyond the end of the origin"
    case .beyondCow(let exception):
      "chunk \(exception.old.rawValue) would lie in chunk \(exception.new.rawValue), beyond the end"
    case .inMetadata(let exception):
      "chunk \(exception.old.rawValue) would lie in metadata chunk \(exception.new.rawValue)"
    case .originChunkTwice(let exception):
      "a second exception for chunk \(exception.old.rawValue)"
    case .cowChunkTwice(let exception):
      "a second exception with its data in chunk \(exception.new.rawValue)"
    }
  }
}
