import BlockIO
import BlockIOTesting
import Testing

@testable import NBD

@Suite struct ExportLayoutTests {
  private func pieces(
    _ layout: ExportLayout, _ bytes: Range<UInt64>, longest: UInt64? = nil
  ) -> [ExportLayout.Piece] {
    var pieces: [ExportLayout.Piece] = []
    var rest = bytes
    while !rest.isEmpty {
      let piece = layout.firstPiece(of: rest, longest: longest ?? layout.maximum)
      pieces.append(piece)
      rest = piece.bytes.upperBound..<rest.upperBound
    }
    return pieces
  }

  @Test func `what is aligned and short enough goes as it is`() {
    let layout = ExportLayout(byteCount: 1 << 20, block: 512, maximum: 1 << 16)
    #expect(pieces(layout, 512..<4096) == [.whole(512..<4096)])
    #expect(
      pieces(layout, 0..<150_016)
        == [.whole(0..<65536), .whole(65536..<131072), .whole(131072..<150_016)])
  }

  @Test func `begun blocks are parts`() {
    let layout = ExportLayout(byteCount: 1 << 20, block: 4096, maximum: 8192)
    #expect(pieces(layout, 512..<1024) == [.part(512..<1024, ofBlock: 0..<4096)])
    #expect(
      pieces(layout, 3584..<13_312) == [
        .part(3584..<4096, ofBlock: 0..<4096), .whole(4096..<12288),
        .part(12288..<13312, ofBlock: 12288..<16384),
      ])
    #expect(layout.wholeBlocks(in: 3584..<13_312) == 4096..<12288)
    #expect(layout.wholeBlocks(in: 512..<4608).isEmpty)
    #expect(layout.sectorsOfBlocks(around: 3584..<4608) == 0..<16)
  }

  @Test func `an end that is no whole sector`() {
    let layout = ExportLayout(byteCount: 1_000_001, block: 1, maximum: 1 << 25)
    #expect(layout.bytes(of: 1953..<1954) == 999_936..<1_000_001)
    #expect(pieces(layout, layout.bytes(of: 0..<1954)) == [.whole(0..<1_000_001)])
  }

  @Test func `an end that is no whole block is whole with it`() {
    let layout = ExportLayout(byteCount: 10_000, block: 4096, maximum: 1 << 20)
    #expect(pieces(layout, 8192..<10_000) == [.whole(8192..<10_000)])
    #expect(pieces(layout, 8192..<9728) == [.part(8192..<9728, ofBlock: 8192..<10_000)])
    #expect(layout.wholeBlocks(in: 8192..<10_000) == 8192..<10_000)
  }

  @Test(arguments: seeds(6)) func `pieces are what was asked for`(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    for _ in 0..<60 {
      let block = UInt64(1) << random.next(upperBound: UInt64(14))
      let layout = ExportLayout(
        byteCount: 1 + random.next(upperBound: UInt64(1 << 18)), block: block,
        maximum: block * (1 + random.next(upperBound: UInt64(9))))
      let start = random.next(upperBound: layout.byteCount)
      let end = start + random.next(upperBound: layout.byteCount - start + 1)
      var next = start
      for piece in pieces(layout, start..<end) {
        #expect(piece.bytes.lowerBound == next && !piece.bytes.isEmpty)
        next = piece.bytes.upperBound
        switch piece {
        case .whole(let bytes):
          #expect(bytes.lowerBound % block == 0 && bytes.count <= layout.maximum)
          #expect(bytes.upperBound % block == 0 || bytes.upperBound == layout.byteCount)
        case .part(let bytes, let whole):
          #expect(whole.lowerBound % block == 0 && whole.count <= block)
          #expect(whole.contains(bytes.lowerBound) && bytes.upperBound <= whole.upperBound)
          #expect(bytes != whole)
        }
      }
      #expect(next == end)
    }
  }
}
