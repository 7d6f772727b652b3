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
