import BlockIO

// The persistent exception store as it lies on the COW device: dm-snapshot's format, version 1.
// Little-endian. The device is an array of chunks: 0 is the header, 1 + k·(E+1) is area k, all
// others hold data. E = 16-byte exceptions in a chunk.

/// One entry of the store: an origin chunk and the chunk of the COW device that stands for it.
public struct Exception: Hashable, Sendable, BitwiseCopyable {
  /// The chunk of the origin.
  public var old: OriginChunk
  /// The chunk of the COW device; in a store 0 ends the list.
  public var new: CowChunk

  /// An exception.
  public init(old: OriginChunk, new: CowChunk) {
    self.old = old
    self.new = new
  }

  /// The size of an entry in bytes.
  static let byteCount = 16
  /// What `new` must be below: the kernel keeps a count in the bits above.
  static let chunkLimit: UInt64 = 1 << 56

  init(_ buffer: IOBuffer, at offset: Int) {
    old = Chunk(buffer.integer(at: offset))
    new = Chunk(buffer.integer(at: offset + 8))
  }

  /// Puts exceptions to the start of a buffer, one behind the other.
  static func encode(_ exceptions: ArraySlice<Exception>, into buffer: IOBuffer) {
    // In memory as on the disk: two numbers of 8 bytes, and the lowest byte first.
    #if _endian(little)
      buffer.store(exceptions.span.bytes, at: 0)
    #else
      for (index, exception) in exceptions.enumerated() {
        buffer.store(exception.old.rawValue, at: index * byteCount)
        buffer.store(exception.new.rawValue, at: index * byteCount + 8)
      }
    #endif
  }
}

/// The first 16 bytes of chunk 0.
struct StoreHeader: Hashable, Sendable {
  /// "SnAp".
  static let magic: UInt32 = 0x7041_6E53
  static let version: UInt32 = 1

  var magic = StoreHeader.magic
  /// Written as 1 or 0; anything but 0 reads as valid.
  var isValid = true
  var version = StoreHeader.version
  /// The size of a chunk in sectors, as it is on the disk.
  var chunkSectors: UInt32

  init(chunkSize: ChunkSize, isValid: Bool = true) {
    chunkSectors = UInt32(chunkSize.sectors.rawValue)
    self.isValid = isValid
  }

  init(_ buffer: IOBuffer) {
    magic = buffer.integer(at: 0)
    isValid = buffer.integer(at: 4) as UInt32 != 0
    version = buffer.integer(at: 8)
    chunkSectors = buffer.integer(at: 12)
  }

  func encode(into buffer: IOBuffer) {
    buffer.store(magic, at: 0)
    buffer.store(isValid ? 1 as UInt32 : 0, at: 4)
    buffer.store(version, at: 8)
    buffer.store(chunkSectors, at: 12)
  }
}

/// Where things are in a store of a given chunk size.
struct StoreGeometry: Hashable, Sendable {
  let chunkSize: ChunkSize

  /// E, the number of exceptions in an area.
  var exceptionsPerArea: Int { Int(chunkSize.sectors.bytes) / Exception.byteCount }

  private var stride: UInt64 { UInt64(exceptionsPerArea) + 1 }

  /// The chunk that holds area `number`.
  func area(_ number: UInt64) -> CowChunk { CowChunk(1 + number * stride) }

  /// Whether a chunk is the header or an area and never holds data.
  func isMetadata(_ chunk: CowChunk) -> Bool { chunk.rawValue == 0 || chunk.rawValue % stride == 1 }

  /// The first chunk from `chunk` on that may hold data.
  func dataChunk(from chunk: CowChunk) -> CowChunk {
    chunk.rawValue % stride == 1 ? CowChunk(chunk.rawValue + 1) : chunk
  }

  /// The first data chunk of a store.
  static let firstDataChunk: CowChunk = 2

  /// How many chunks a device must have so that every one of `count` origin chunks can be copied:
  /// the size from which on a snapshot can't run full.
  func chunksNeeded(for count: UInt64) -> UInt64 {
    1 + count + (count + UInt64(exceptionsPerArea)) / UInt64(exceptionsPerArea)
  }

  /// How many more chunks fit onto a device of `total` chunks if `next` is the next one and the
  /// begun area `number` holds `entries` exceptions. The exception that fills an area needs the
  /// next area, too.
  func room(from next: CowChunk, area number: UInt64, entries: Int, total: UInt64) -> UInt64 {
    var (next, number, entries, count) = (next.rawValue, number, entries, 0 as UInt64)
    while next < total {
      let left = UInt64(exceptionsPerArea - entries)
      let end = area(number + 1).rawValue
      // Chunks up to the next area's place, or up to the end.
      let here = min(total, max(end, next)) - next
      if here < left || end >= total { return count + min(here, left - 1) }
      count += left
      (next, number, entries) = (max(end, next + left) + 1, number + 1, 0)
    }
    return count
  }

  /// The byte on the device at which an entry begins.
  func byteOffset(area number: UInt64, index: Int) -> UInt64 {
    chunkSize.start(of: area(number)).bytes + UInt64(index * Exception.byteCount)
  }
}
