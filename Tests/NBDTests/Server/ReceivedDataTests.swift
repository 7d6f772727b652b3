import NIOCore
import Testing

@testable import NBD

struct ReceivedDataTests {
  /// However it was received, it comes out whole, in order and cut at blocks.
  @Test(arguments: [
    [4096], [1, 4095], [4095, 1], [5000, 3192], [20_000, 20_000, 960], [40_000, 2, 958], [512],
    [30_000, 16_384, 16_384, 2768, 16_400],
  ])
  func partsAreWholeBlocks(pieces: [Int]) {
    let count = pieces.reduce(0, +)
    let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 ^ $0 >> 8) }
    var data = ReceivedData()
    var start = 0
    for piece in pieces {
      var input = ByteBuffer(bytes: bytes[start..<start + piece])
      #expect(data.take(count, from: &input) == (start + piece == count))
      start += piece
    }
    var parts: [Int] = []
    var all: [UInt8] = []
    let isDone = data.inBlocks(of: 4096) { part, offset in
      #expect(offset == all.count)
      parts.append(part.readableBytes)
      all += part.readableBytesView
      return true
    }
    #expect(isDone)
    #expect(all == bytes)
    #expect(parts.dropLast().allSatisfy { $0 % 4096 == 0 })
  }

  @Test func aPartThatFailsEndsIt() {
    var input = ByteBuffer(repeating: 1, count: 12_288)
    var data = ReceivedData()
    var pieces = 0
    for _ in 0..<3 {
      if var piece = input.readSlice(length: 4096) { _ = data.take(12_288, from: &piece) }
    }
    #expect(
      !data.inBlocks(of: 4096) { _, _ in
        pieces += 1; return false
      })
    #expect(pieces == 1)
  }
}
