import BlockIO

/// How requests must be cut for a server: at its largest request, and at its blocks. Pure.
struct ExportLayout: Hashable, Sendable {
  /// The size of the export in bytes.
  let byteCount: UInt64
  /// The unit in which the server takes requests, a power of two, in bytes.
  let block: UInt64
  /// The most bytes of data in one request; whole blocks.
  let maximum: UInt64

  /// The most bytes of a request without data. The wire takes 4 GiB, but a server that must write
  /// the zeros itself would be silent for too long.
  static let longestWithoutData: UInt64 = 64 << 20

  /// A part of a request.
  enum Piece: Hashable {
    /// As it is: whole blocks, not too long.
    case whole(Range<UInt64>)
    /// A part of one block, which has to be read around it.
    case part(Range<UInt64>, ofBlock: Range<UInt64>)

    /// The bytes that are asked for.
    var bytes: Range<UInt64> {
      switch self {
      case .whole(let bytes), .part(let bytes, _): bytes
      }
    }
  }

  /// The bytes of `sectors` that the export has.
  func bytes(of sectors: Range<Sector>) -> Range<UInt64> {
    let start = min(sectors.lowerBound.bytes, byteCount)
    return start..<max(start, min(sectors.upperBound.bytes, byteCount))
  }

  /// The first piece of what is left of a request.
  func firstPiece(of bytes: Range<UInt64>, longest: UInt64) -> Piece {
    let begun = bytes.lowerBound % block
    let blockStart = bytes.lowerBound - begun
    // An export that ends within a block – which no server should have – ends that block.
    let blockEnd = min(blockStart + block, byteCount)
    if begun > 0 || bytes.upperBound < blockEnd {
      let end = min(bytes.upperBound, blockEnd)
      return .part(bytes.lowerBound..<end, ofBlock: blockStart..<blockEnd)
    }
    var end = min(bytes.upperBound, bytes.lowerBound + max(block, longest / block * block))
    if end < byteCount { end -= end % block }
    return .whole(bytes.lowerBound..<end)
  }

  /// The whole blocks within a range; empty where there are none.
  func wholeBlocks(in bytes: Range<UInt64>) -> Range<UInt64> {
    let start = (bytes.lowerBound + block - 1) / block * block
    let end = bytes.upperBound == byteCount ? byteCount : bytes.upperBound / block * block
    return start < end ? start..<end : bytes.lowerBound..<bytes.lowerBound
  }

  /// The sectors that the blocks of a range touch.
  func sectorsOfBlocks(around bytes: Range<UInt64>) -> Range<Sector> {
    let start = bytes.lowerBound / block * block
    let end = min((bytes.upperBound + block - 1) / block * block, byteCount)
    return Sector(start / Sector.byteCount)..<Sector(holding: max(start, end))
  }
}
