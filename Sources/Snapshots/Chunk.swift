public import BlockIO

/// The device on which a chunk number counts.
public protocol ChunkSide: Sendable {}

/// The origin: the device that is snapshotted.
public enum OriginSide: ChunkSide {}

/// The COW device, which holds copied and changed chunks.
public enum CowSide: ChunkSide {}

/// A chunk by its number on a device, or – as a stride – a number of chunks.
///
/// The unit of copy-on-write. Chunks of the origin and of the COW device are types of their own, so
/// that an exception can't be read the wrong way round.
public struct Chunk<Side: ChunkSide>: Hashable, Strideable, Sendable, BitwiseCopyable,
  ExpressibleByIntegerLiteral
{
  /// The number, from 0 on.
  public var rawValue: UInt64

  /// The chunk of that number.
  @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }

  /// The chunk of that number.
  @inlinable public init(integerLiteral value: UInt64) { rawValue = value }

  @inlinable public static func < (left: Self, right: Self) -> Bool {
    left.rawValue < right.rawValue
  }

  @inlinable public func distance(to other: Self) -> Int {
    Int(Int64(bitPattern: other.rawValue &- rawValue))
  }

  @inlinable public func advanced(by count: Int) -> Self {
    Self(UInt64(Int64(rawValue) + Int64(count)))
  }
}

/// A chunk of the origin.
public typealias OriginChunk = Chunk<OriginSide>

/// A chunk of the COW device; 0 holds the header of a persistent store.
public typealias CowChunk = Chunk<CowSide>

/// The size of a chunk: a power of two of sectors, up to 1 GiB.
public struct ChunkSize: Hashable, Sendable {
  /// The largest the kernel accepts: a power of two below 4 194 304 sectors.
  public static let maximum = Sector(2_097_152)
  /// The smallest for a persistent store here and with LVM.
  public static let persistentMinimum = Sector(8)

  private let shift: UInt64

  /// A chunk of `sectors`; nil unless that is a power of two up to ``maximum``.
  public init?(_ sectors: Sector) {
    guard sectors > .zero, sectors <= Self.maximum, sectors.rawValue.nonzeroBitCount == 1 else {
      return nil
    }
    shift = UInt64(sectors.rawValue.trailingZeroBitCount)
  }

  /// The size in sectors.
  public var sectors: Sector { Sector(1 << shift) }

  /// How many whole chunks `length` holds.
  func wholeChunks(in length: Sector) -> UInt64 { length.rawValue >> shift }

  /// The chunk in which a sector lies.
  func chunk<Side>(of sector: Sector) -> Chunk<Side> { Chunk(sector.rawValue >> shift) }

  /// All chunks that share a sector with `sectors`.
  func chunks<Side>(touching sectors: Range<Sector>) -> Range<Chunk<Side>> {
    guard !sectors.isEmpty else { return 0..<0 }
    let first: Chunk<Side> = chunk(of: sectors.lowerBound)
    let last: Chunk<Side> = chunk(of: sectors.upperBound - 1)
    return first..<Chunk(last.rawValue + 1)
  }

  /// The first sector of a chunk.
  func start<Side>(of chunk: Chunk<Side>) -> Sector { Sector(chunk.rawValue << shift) }

  /// The sectors of a chunk.
  func sectors<Side>(of chunk: Chunk<Side>) -> Range<Sector> {
    let start = start(of: chunk)
    return start..<start + sectors
  }

  /// The sectors of adjacent chunks.
  func sectors<Side>(of chunks: Range<Chunk<Side>>) -> Range<Sector> {
    start(of: chunks.lowerBound)..<start(of: chunks.upperBound)
  }

  /// Where within its chunk a sector lies.
  func offset(of sector: Sector) -> Sector { Sector(sector.rawValue & (1 << shift - 1)) }

  /// The part of `sectors` – not empty – that lies in the chunk of its first sector.
  func firstPart(of sectors: Range<Sector>) -> Range<Sector> {
    let chunk: OriginChunk = chunk(of: sectors.lowerBound)
    return sectors.clamped(to: self.sectors(of: chunk))
  }
}
