import BlockIO
import BlockIOTesting
import Testing

@testable import Kcopyd

/// Cutting a job into segments.
@Suite struct SegmentCursorTests {
  private func segments(
    _ count: Sector, _ segment: Sector, _ order: SegmentCursor.Order = .ascending
  ) -> [Range<Sector>] {
    var cursor = SegmentCursor(count: count, segment: segment, order: order)
    var all: [Range<Sector>] = []
    while let next = cursor.next() { all.append(next) }
    #expect(cursor.isAtEnd && cursor.next() == nil)
    return all
  }

  @Test func allButTheLastAreOfFullSize() {
    #expect(segments(20, 8) == [0..<8, 8..<16, 16..<20])
    #expect(segments(16, 8) == [0..<8, 8..<16])
    #expect(segments(3, 8) == [0..<3])
    #expect(segments(8, 8) == [0..<8])
    #expect(segments(2, 1) == [0..<1, 1..<2])
  }

  @Test func nothingToCut() {
    #expect(segments(0, 8).isEmpty)
    #expect(segments(0, 8, .descending).isEmpty)
  }

  @Test func descendingTheyAreTheSameFromTheEnd() {
    for count in Sector(0).rawValue..<40 {
      for size in 1...9 as ClosedRange<UInt64> {
        let ascending = segments(Sector(count), Sector(size))
        #expect(segments(Sector(count), Sector(size), .descending) == ascending.reversed())
      }
    }
  }

  @Test func theRestIsWhatHasNotBeenTaken() {
    var cursor = SegmentCursor(count: 20, segment: 8)
    #expect(cursor.rest == 0..<20 && !cursor.isAtEnd)
    _ = cursor.next()
    #expect(cursor.rest == 8..<20)
    var descending = SegmentCursor(count: 20, segment: 8, order: .descending)
    _ = descending.next()
    #expect(descending.rest == 0..<16)
  }

  @Test func theLargestJob() {
    let count = Sector(.max)
    var cursor = SegmentCursor(count: count, segment: 2048)
    #expect(cursor.next() == 0..<2048)
    var descending = SegmentCursor(count: count, segment: 2048, order: .descending)
    #expect(descending.next() == count - 2047..<count)
  }
}
