import BlockIO

/// The log of `log-writes` on disk. Little-endian; blocks of the recorded device's logical size.
///
/// | Block | Content |
/// |---|---|
/// | 0 | magic, version, number of entries (u64 each), block size (u32) |
/// | from 1 on | entries: a block with sector, number of sectors, flags, length of data (u64 each), both counted in blocks, then the data |
enum WriteLogFormat {
  static let magic: UInt64 = 0x006A_7366_7773_6872
  static let version: UInt64 = 1
  static let headerLength = 32

  /// What an entry records.
  struct Flags: OptionSet, Hashable, Sendable {
    let rawValue: UInt64
    static let flush = Flags(rawValue: 1)
    static let durable = Flags(rawValue: 2)
    static let discard = Flags(rawValue: 4)
    static let mark = Flags(rawValue: 8)
  }

  /// An entry.
  struct Entry: Sendable {
    var sectors: Range<Sector> = 0..<0
    var flags: Flags = []
    /// What was written; the text of a mark.
    var data: [UInt8] = []
  }

  /// The first block.
  static func superblock(entries: UInt64, block: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: block)
    put(magic, at: 0, in: &bytes)
    put(version, at: 8, in: &bytes)
    put(entries, at: 16, in: &bytes)
    put(UInt32(block), at: 24, in: &bytes)
    return bytes
  }

  /// An entry with its data, in whole blocks.
  static func bytes(of entry: Entry, block: Int) -> [UInt8] {
    let unit = UInt64(block) / Sector.byteCount
    var bytes = [UInt8](repeating: 0, count: block)
    put(entry.sectors.lowerBound.rawValue / unit, at: 0, in: &bytes)
    put(entry.sectors.length.rawValue / unit, at: 8, in: &bytes)
    put(entry.flags.rawValue, at: 16, in: &bytes)
    guard entry.flags.contains(.mark) else { return bytes + entry.data }
    put(UInt64(entry.data.count), at: 24, in: &bytes)
    bytes.replaceSubrange(headerLength..<headerLength + entry.data.count, with: entry.data)
    return bytes
  }

  /// The longest text of a mark.
  static func longestMark(block: Int) -> Int { block - headerLength }

  private static func put(
    _ value: some FixedWidthInteger, at offset: Int, in bytes: inout [UInt8]
  ) {
    for index in 0..<value.bitWidth / 8 {
      bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * index))
    }
  }
}
