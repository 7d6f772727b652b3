import BlockIO
import BlockIOTesting
import Testing

@testable import Kcopyd

@Suite struct WritePiecesTests {
  private static func treatment(
    blank: Bool, shortest: Sector?, block: Int = 512
  ) -> ZeroTreatment {
    var limits = DeviceLimits()
    limits.physicalBlock = block
    var content = CopyContent()
    content.shortestZeroRun = shortest
    if blank { content.blankDestinations = [0] }
    let device = MemoryDevice(sectorCount: 64)
    return ZeroTreatment(content, destination: IORegion(device, count: 64), index: 0)
  }

  /// Memory of `count` sectors, of which those in `data` aren't zeros.
  private static func with<R>(
    _ count: Sector, data: [Range<Sector>], _ body: (IOBuffer) throws -> R
  ) throws -> R {
    let pages = try PagePool.lend(holding: count)
    let buffer = pages.buffer.slice(.zero, count)
    buffer.clear()
    for range in data { Pattern("x").fill(buffer.slice(range.lowerBound, range.length), from: 0) }
    return try body(buffer)
  }

  private static func piece(_ sectors: Range<Sector>, _ action: WritePiece.Action) -> WritePiece {
    WritePiece(sectors: sectors, action: action)
  }

  @Test func zerosBecomePiecesInBlocks() throws {
    try Self.with(48, data: [3..<4, 40..<41]) { buffer in
      let blank = Self.treatment(blank: true, shortest: 32).pieces(of: buffer, at: 0)
      #expect(
        blank == [
          Self.piece(0..<8, .write), Self.piece(8..<40, .leaveZero), Self.piece(40..<48, .write),
        ])
      let dirty = Self.treatment(blank: false, shortest: 32).pieces(of: buffer, at: 0)
      #expect(dirty.map(\.action) == [.write, .zero, .write])
      // Too short a run, and none looked for.
      let long = Self.treatment(blank: false, shortest: 33).pieces(of: buffer, at: 0)
      #expect(long == [Self.piece(0..<48, .write)])
      let never = Self.treatment(blank: true, shortest: nil).pieces(of: buffer, at: 0)
      #expect(never == [Self.piece(0..<48, .write)])
      // The blocks are the device's.
      let moved = Self.treatment(blank: true, shortest: 8).pieces(of: buffer, at: 5)
      #expect(moved.first == Self.piece(0..<11, .write))
    }
  }

  @Test func holesAreZeroedUnlessBlank() {
    #expect(
      Self.treatment(blank: false, shortest: nil).pieces(ofHole: 9) == [Self.piece(0..<9, .zero)])
    #expect(
      Self.treatment(blank: true, shortest: nil).pieces(ofHole: 9)
        == [Self.piece(0..<9, .leaveZero)])
  }

  @Test func differencesAreWholeBlocksOfTheDevice() throws {
    try Self.with(32, data: [0..<32]) { buffer in
      try Self.with(32, data: [0..<32]) { present in
        let treatment = Self.treatment(blank: false, shortest: 8)
        #expect(
          treatment.pieces(of: buffer, over: present, at: 0) == [Self.piece(0..<32, .leaveEqual)])
        present.slice(9, 1).clear()
        #expect(
          treatment.pieces(of: buffer, over: present, at: 4) == [
            Self.piece(0..<4, .leaveEqual), Self.piece(4..<12, .write),
            Self.piece(12..<32, .leaveEqual),
          ])
        buffer.slice(8, 8).clear()
        #expect(
          treatment.pieces(of: buffer, over: present, at: 0).map(\.action)
            == [.leaveEqual, .zero, .leaveEqual])
      }
    }
  }

  @Test func segmentsEndAtHoles() {
    var cursor = SegmentCursor(
      count: 40, segment: 8, holes: .of(5..<6, 10..<30, 38..<50), holeSegment: 16)
    var seen: [(Range<Sector>, Bool)] = []
    while !cursor.isAtEnd {
      let isHole = cursor.isAtHole
      if let next = cursor.next(segments: 2) { seen.append((next, isHole)) }
    }
    #expect(seen.map(\.0) == [0..<5, 5..<6, 6..<10, 10..<26, 26..<30, 30..<38, 38..<40])
    #expect(seen.map(\.1) == [false, true, false, true, true, false, true])
  }
}
