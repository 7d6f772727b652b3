import BlockIO
import NIOCore
import Testing

@testable import NBD

struct ReceivedDataTests {
  /// However it was received, it comes out whole and in order, for calls and for devices.
  @Test(arguments: [
    [512], [4096], [1, 4095], [4095, 1], [16_000, 16_000, 768], [32_768], [1, 65_535],
    [40_000, 960],
    [30_000, 16_384, 16_384, 2768], [Int](repeating: 1, count: 1024),
  ])
  func comesOutAsItCame(pieces: [Int]) throws {
    let count = pieces.reduce(0, +)
    let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 ^ $0 >> 8) }
    var data = ReceivedData(wanted: count)
    var start = 0
    for piece in pieces {
      #expect(!data.isComplete)
      // What follows belongs to somebody else.
      var input = ByteBuffer(bytes: bytes[start..<start + piece])
      if start + piece == count { input.writeInteger(UInt32(0xDEAD_BEEF)) }
      data.take(from: &input)
      start += piece
      #expect(data.count == start)
      #expect(input.readableBytes == (start == count ? 4 : 0))
    }
    #expect(data.isComplete)
    #expect((data.lasting == nil) == (count < ReceivedData.large))
    let pages = try PagePool.lend(holding: Sector(holding: UInt64(count + 3)))
    data.store(0..<count, into: pages.buffer, at: 3)
    #expect(pages.buffer.bytes(3..<3 + count) == bytes)
    data.store(count / 2..<count, into: pages.buffer, at: 0)
    #expect(pages.buffer.bytes(0..<count - count / 2) == [UInt8](bytes[(count / 2)...]))
    guard count % 512 == 0 else { return }
    #expect(data.withSectors { $0.bytes(0..<count) == bytes && $0.byteCount == count })
  }

  /// Any device can write from it: it begins with a page, and has whole sectors.
  @Test func largeDataAreAligned() throws {
    for wanted in [32_768, 100_001] {
      let buffer = try #require(ReceivedData(wanted: wanted).lasting)
      buffer.withBytes {
        $0.withUnsafeBytes { #expect(Int(bitPattern: $0.baseAddress) % 4096 == 0) }
      }
      #expect(buffer.byteCount == (wanted + 511) / 512 * 512)
    }
  }
}

extension IOBuffer {
  fileprivate func bytes(_ range: Range<Int>) -> [UInt8] {
    withBytes { $0.withUnsafeBytes { [UInt8]($0[range]) } }
  }
}
