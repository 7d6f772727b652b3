// Stores made byte by byte from the description of the format, without what is to be tested.

extension [UInt8] {
  /// Puts a number to a byte offset, little-endian.
  package mutating func put(_ value: some FixedWidthInteger & BitwiseCopyable, at offset: Int) {
    let value = value.littleEndian
    withUnsafeMutableBytes { $0.storeBytes(of: value, toByteOffset: offset, as: type(of: value)) }
  }

  /// The little-endian number at a byte offset.
  package func number<T: FixedWidthInteger & BitwiseCopyable>(at offset: Int, as type: T.Type) -> T
  {
    withUnsafeBytes { T(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: T.self)) }
  }

  /// Puts the header of a store to the beginning.
  package mutating func putHeader(
    magic: UInt32 = 0x7041_6E53, valid: UInt32 = 1, version: UInt32 = 1, chunkSectors: UInt32
  ) {
    for (index, value) in [magic, valid, version, chunkSectors].enumerated() {
      put(value, at: 4 * index)
    }
  }

  /// Puts an entry to its place in an area.
  package mutating func putException(
    chunkSectors: UInt32, area: UInt64 = 0, index: Int, old: UInt64, new: UInt64
  ) {
    let offset = exceptionOffset(chunkSectors: chunkSectors, area: area, index: index)
    put(old, at: offset)
    put(new, at: offset + 8)
  }
}

/// The byte at which an entry lies: chunk 1 is the first area, and each is followed by the chunks
/// of its entries.
package func exceptionOffset(chunkSectors: UInt32, area: UInt64 = 0, index: Int) -> Int {
  let chunk = Int(chunkSectors) * 512
  return (1 + Int(area) * (chunk / 16 + 1)) * chunk + 16 * index
}
