/// How a byte range of a file opened with `O_DIRECT` is transferred: pure arithmetic.
///
/// A disk transfers whole logical blocks. The middle of a range goes straight; begun blocks at its
/// ends go through a bounce block (written by reading, changing and writing it back). A last block
/// that the file doesn't fill can't be transferred at all without making the file longer, so what
/// lies from the start of its page on goes through the page cache – always, so that the two ways
/// never meet in one page.
struct DirectLayout: Equatable, Sendable {
  /// The logical block in bytes, a power of two.
  let block: UInt64
  /// Where the part begins that goes through the page cache.
  let cachedStart: UInt64

  /// The layout of a file of `byteCount` bytes.
  init(block: UInt64, byteCount: UInt64, page: UInt64) {
    precondition(block > 0 && block & (block - 1) == 0)
    self.block = block
    let granule = max(block, page)
    cachedStart = byteCount % block == 0 ? byteCount : byteCount / granule * granule
  }

  /// The way a piece goes.
  enum Way: Equatable { case direct, bounce, cached }

  /// The first piece of `range`: up to where the way changes. A bounce piece is part of one block.
  func firstPiece(of range: Range<UInt64>) -> (way: Way, bytes: Range<UInt64>) {
    let start = range.lowerBound
    if start >= cachedStart { return (.cached, range) }
    let end = min(range.upperBound, cachedStart)
    let blockStart = start / block * block
    if start == blockStart, end - start >= block {
      return (.direct, start..<end / block * block)
    }
    return (.bounce, start..<min(end, blockStart + block))
  }
}
