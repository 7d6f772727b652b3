import BlockIO
import Testing

@testable import BlockIOTesting

/// What a flush covers, without the disk around it.
@Suite struct DiskContentsTests {
  private static let zeros = [UInt8](repeating: 0, count: 8 * 512)

  private func sectorIsStable(_ contents: DiskContents, _ sector: Sector, _ label: String) -> Bool {
    let start = Int(sector.bytes)
    return Array(contents.stable[start..<start + 512]) == Pattern(label).bytes(sector..<sector + 1)
  }

  private func land(_ contents: inout DiskContents, _ sectors: Range<Sector>, request: Int) {
    contents.land(
      sectors, Pattern("r\(request)").bytes(sectors), request: request, areZeroes: false)
  }

  @Test func flushCoversWhatHadCompleted() {
    var contents = DiskContents(Self.zeros, zeroes: RangeSet(0..<8), isVolatile: true)
    land(&contents, 0..<1, request: 1)
    contents.complete(request: 1)
    land(&contents, 1..<2, request: 2)
    land(&contents, 2..<3, request: 3)
    let point = contents.now
    contents.complete(request: 2)
    contents.makeDurable(before: point)
    #expect(sectorIsStable(contents, 0, "r1"), "completed before the flush began")
    #expect(!sectorIsStable(contents, 1, "r2"), "completed while it ran")
    #expect(!sectorIsStable(contents, 2, "r3"), "has never completed")
    contents.makeDurable(before: contents.now)
    #expect(sectorIsStable(contents, 1, "r2"))
    #expect(!sectorIsStable(contents, 2, "r3"))
    contents.makeDurable(request: 3)
    #expect(sectorIsStable(contents, 2, "r3"))
    #expect(Array(contents.zeroes.ranges) == [3..<8])
  }

  @Test func withoutACacheAllIsStable() {
    var contents = DiskContents(Self.zeros, zeroes: RangeSet(), isVolatile: false)
    land(&contents, 3..<5, request: 1)
    #expect(contents.stable == contents.current && sectorIsStable(contents, 4, "r1"))
  }
}
