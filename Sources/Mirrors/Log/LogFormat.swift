import BlockIO

// The disk log of dm-mirror, version 2: header at byte 0, a bit per region from byte 1024 on, 1
// meaning clean – in sync and no write under way. Little-endian. Everything else is kept as it is.

/// The header of a disk log.
struct LogHeader: Hashable, Sendable {
  /// On disk "rRiM".
  static let magic: UInt32 = 0x4D69_5272
  static let version: UInt32 = 2
  /// What volume managers write into new logs: the bits are for as many regions as there are.
  static let anyRegionCount = UInt64.max

  var magic: UInt32
  var version: UInt32
  var regionCount: UInt64

  init(regionCount: UInt64) {
    magic = Self.magic
    version = Self.version
    self.regionCount = regionCount
  }

  init(_ buffer: IOBuffer) {
    magic = buffer.integer(at: 0)
    version = buffer.integer(at: 4)
    regionCount = buffer.integer(at: 8)
  }

  func encode(into buffer: IOBuffer) {
    buffer.store(magic, at: 0)
    buffer.store(version, at: 4)
    buffer.store(regionCount, at: 8)
  }
}

/// Where things are in the log of a mirror with so many regions.
struct LogGeometry: Hashable, Sendable {
  /// Where the bits begin, in bytes.
  static let bitsOffset = 1024

  let regionCount: UInt64
  /// The log device's logical block in bytes: the log is whole blocks long.
  let block: Int

  /// How many 64-bit words the bits take.
  var wordCount: Int { Int((regionCount + 63) / 64) }

  /// The length of the log.
  var length: Sector {
    let bytes = Self.bitsOffset + wordCount * 8
    return Sector(holding: UInt64((bytes + block - 1) / block * block))
  }

  /// The block of the log in which the bit of a region lies.
  func block(of region: Region) -> Int { (Self.bitsOffset + Int(region.rawValue / 64) * 8) / block }

  /// The sectors of a block.
  func sectors(ofBlocks blocks: Range<Int>) -> Range<Sector> {
    let size = Sector(UInt64(block) / Sector.byteCount)
    return size * UInt64(blocks.lowerBound)..<size * UInt64(blocks.upperBound)
  }

  /// How many blocks the log has.
  var blockCount: Int { Int(length.bytes) / block }

  func bits(_ buffer: IOBuffer) -> RegionBits {
    let words = (0..<wordCount).map {
      buffer.integer(at: Self.bitsOffset + $0 * 8, as: UInt64.self)
    }
    return RegionBits(words: words, count: regionCount)
  }

  /// Puts the words of `blocks` into the buffer, which is the whole log.
  func encode(_ bits: RegionBits, blocks: Range<Int>, into buffer: IOBuffer) {
    let first = max(0, (blocks.lowerBound * block - Self.bitsOffset) / 8)
    let end = min(wordCount, max(0, (blocks.upperBound * block - Self.bitsOffset + 7) / 8))
    for index in first..<max(first, end) {
      buffer.store(bits.words[index], at: Self.bitsOffset + index * 8)
    }
  }
}
