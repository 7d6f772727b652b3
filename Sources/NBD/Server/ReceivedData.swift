import BlockIO
import NIOCore

/// The data of a write as they came from the network: in pieces, which are copied once only, to
/// where the device takes them from.
struct ReceivedData {
  private var pieces: [ByteBuffer] = []
  /// Smaller pieces are copied together: each keeps the memory that it was received into, and a
  /// client may send byte by byte.
  private static let smallPiece = 16 << 10
  /// The length in bytes.
  private(set) var count = 0

  /// Takes what is missing of `wanted` bytes, as far as `input` has it.
  ///
  /// - Returns: whether they are complete.
  mutating func take(_ wanted: Int, from input: inout ByteBuffer) -> Bool {
    let missing = min(wanted - count, input.readableBytes)
    if missing > 0, var piece = input.readSlice(length: missing) {
      if missing < Self.smallPiece, !pieces.isEmpty {
        pieces[pieces.count - 1].writeBuffer(&piece)
      } else {
        pieces.append(piece)
      }
      count += missing
    }
    return count == wanted
  }

  /// Calls `body` with all of it in order, in parts of whole blocks, the last one excepted: as they
  /// were received, and put together only where two pieces meet within a block.
  ///
  /// - Parameter body: gets a part and where it begins; false ends it all.
  /// - Returns: whether there was no false.
  func inBlocks(of block: Int, _ body: (ByteBuffer, Int) -> Bool) -> Bool {
    var start = 0
    var begun = ByteBuffer()
    for var piece in pieces {
      if begun.readableBytes > 0 {
        let missing = min(block - begun.readableBytes, piece.readableBytes)
        if var rest = piece.readSlice(length: missing) { begun.writeBuffer(&rest) }
        guard begun.readableBytes == block else { continue }
        guard body(begun, start) else { return false }
        start += block
        begun.clear()
      }
      if let whole = piece.readSlice(length: piece.readableBytes / block * block),
        whole.readableBytes > 0
      {
        guard body(whole, start) else { return false }
        start += whole.readableBytes
      }
      begun.writeBuffer(&piece)
    }
    return begun.readableBytes == 0 || body(begun, start)
  }

  /// Puts the bytes of `range` into `buffer`, from a byte offset on.
  func store(_ range: Range<Int>, into buffer: IOBuffer, at offset: Int) {
    var start = 0
    for piece in pieces {
      let part = range.clamped(to: start..<start + piece.readableBytes)
      if !part.isEmpty {
        buffer.store(
          piece.readableBytesSpan.extracting(part.lowerBound - start..<part.upperBound - start),
          at: offset + part.lowerBound - range.lowerBound)
      }
      start += piece.readableBytes
    }
  }
}
