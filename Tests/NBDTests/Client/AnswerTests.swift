import BlockIO
import BlockIOTesting
import Testing

@testable import NBD

@Suite struct ReceivedPartsTests {
  @Test func `parts in any order make a whole`() {
    var parts = ReceivedParts()
    #expect(parts.prefix == 0)
    for part in [4..<6, 10..<12, 6..<10, 0..<0, 0..<4] {
      let isNew = parts.add(part)
      #expect(isNew)
    }
    #expect(parts.prefix == 12 && parts.count == 1)
  }

  @Test(arguments: [0..<1, 3..<5, 5..<6, 0..<20, 9..<11]) func `no byte comes twice`(
    part: Range<Int>
  ) {
    var parts = ReceivedParts()
    _ = parts.add(0..<4)
    _ = parts.add(5..<10)
    let isNew = parts.add(part)
    #expect(!isNew)
  }

  @Test func `what is missing is missing`() {
    var parts = ReceivedParts()
    _ = parts.add(0..<4)
    _ = parts.add(5..<10)
    #expect(parts.prefix == 4 && parts.count == 2)
    var late = ReceivedParts()
    _ = late.add(1..<4)
    #expect(late.prefix == 0)
  }
}

@Suite struct AwaitedDataTests {
  @Test func `a long answer is received in its place, to its last byte`() throws {
    let pages = try PagePool.lend(holding: 128)
    var reader = AnswerReader(ExportInfo(byteCount: 1 << 20, flags: [.hasFlags]))
    let request = ClientRequest(operation: .read(pages.buffer), bytes: 0..<65536)
    let head = RequestHeader(.read, cookie: 3, offset: 0, length: 65536)
    #expect(!reader.expectsBulk)
    reader.expect(3, request)
    #expect(reader.expectsBulk && reader.awaited == nil)
    var ends = 0
    try reader.take(Answer.simple(head)) { _, _ in ends += 1 }
    #expect(reader.awaited?.range == 0..<65536)
    try reader.placed(65535) { _, _ in ends += 1 }
    #expect(reader.expectsBulk && reader.awaited?.range == 65535..<65536 && ends == 0)
    try reader.placed(1) { _, _ in ends += 1 }
    #expect(!reader.expectsBulk && reader.awaited == nil && ends == 1)
  }

  @Test func `short answers come together`() throws {
    let pages = try PagePool.lend(holding: 8)
    var reader = AnswerReader(ExportInfo(byteCount: 1 << 20, flags: [.hasFlags]))
    for number in 1...UInt64(4) {
      reader.expect(number, ClientRequest(operation: .read(pages.buffer), bytes: 0..<4096))
    }
    try reader.take(Answer.simple(RequestHeader(.read, cookie: 1, offset: 0, length: 4096))) {
      _, _ in
    }
    #expect(!reader.expectsBulk && reader.awaited == nil)
  }
}

@Suite struct SectorExtentsTests {
  @Test(arguments: seeds(10)) func `a sector is zero only if every byte of it is`(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    for _ in 0..<100 {
      let byteCount = UInt64(1) + random.next(upperBound: UInt64(6000))
      let sectorCount = Sector(holding: byteCount)
      let sectors = random.range(in: .zero..<sectorCount, longest: sectorCount)
      // What the server knows, byte by byte.
      var isZero: [Bool] = []
      var extents: [(length: UInt64, isZero: Bool)] = []
      while isZero.count < Int(byteCount) {
        let longest: UInt64 = random.chance(1, in: 2) ? 300 : 3000
        let length = UInt64(1) + random.next(upperBound: longest)
        let zero = random.chance(1, in: 2)
        isZero += repeatElement(zero, count: Int(length))
        extents.append((length, zero))
      }
      isZero.replaceSubrange(
        Int(byteCount)..., with: repeatElement(true, count: Int(sectorCount.bytes - byteCount)))
      var answer = SectorExtents(sectors, byteCount: byteCount, limit: 1000)
      var start: UInt64 = 0
      for extent in extents {
        let end = start + extent.length
        let first = max(start, sectors.lowerBound.bytes)
        if end > first { answer.add(end - first, isZero: extent.isZero) }
        start = end
      }
      var next = sectors.lowerBound
      for extent in answer.finished() {
        #expect(extent.sectors.lowerBound == next && !extent.sectors.isEmpty)
        next = extent.sectors.upperBound
        for sector in extent.sectors.lowerBound.rawValue..<extent.sectors.upperBound.rawValue {
          let all = isZero[Int(sector) * 512..<Int(sector + 1) * 512].allSatisfy { $0 }
          #expect((extent.status == .zero) == all, "sector \(sector) of \(byteCount) bytes")
        }
      }
      #expect(next == sectors.upperBound)
    }
  }

  @Test func `what isn't said is left for the next question`() {
    var answer = SectorExtents(2..<10, byteCount: 1 << 20, limit: 1)
    answer.add(1000, isZero: true)
    #expect(answer.finished() == [BlockExtent(2..<3, .zero)])
    answer.add(24, isZero: false)
    answer.add(512, isZero: true)
    #expect(answer.finished() == [BlockExtent(2..<3, .zero)])
    var little = SectorExtents(2..<10, byteCount: 1 << 20, limit: 9)
    #expect(little.finished().isEmpty)
    little.add(100, isZero: true)
    #expect(little.finished() == [BlockExtent(2..<3, .data)])
  }
}
