import BlockIOTesting
import SystemPackage
import Testing

@testable import BlockIO

@Suite struct SectorTests {
  @Test func bytesAndSectors() {
    #expect(Sector(3).bytes == 1536)
    #expect([0, 1, 511, 512, 513].map { Sector(holding: $0) } == [0, 1, 1, 1, 2])
    #expect(Sector(holding: .max) == Sector(1 << 55))
    #expect(!Sector(UInt64(Int64.max) / 512).bytesOverflow)
    #expect(Sector(UInt64(Int64.max) / 512 + 1).bytesOverflow)
  }

  @Test func ranges() {
    let range: Range<Sector> = 4..<10
    #expect(range.length == 6)
    #expect(range.shifted(by: 3) == 7..<13)
    #expect(range.label == "sectors 4–9")
    #expect((4..<5 as Range<Sector>).label == "sector 4")
    #expect((4..<4 as Range<Sector>).label == "no sectors")
  }

  @Test func rangeSets() {
    var set = RangeSet<Sector>()
    set.insert(5..<5)
    #expect(set.isEmpty && set.sectorCount == 0)
    set.insert(5..<8)
    set.insert(8..<10)
    set.insert(1..<2)
    #expect(Array(set.ranges) == [1..<2, 5..<10])
    #expect(set.sectorCount == 6)
  }

  @Test func failuresInWords() {
    let failure = IOFailure(.read, "disk", 4..<10, errno: .ioError)
    #expect(failure.description.hasPrefix("cannot read 'disk' sectors 4–9: "))
    #expect(failure.at(4..<5).sectors == 4..<5 && failure.at(4..<5).errno == .ioError)
    #expect(
      IOFailure(.flush, "disk", errno: .ioError, detail: "why").description
        == "cannot flush 'disk': why")
  }
}

@Suite struct IOBufferTests {
  private func withBuffers(_ body: (IOBuffer, IOBuffer) throws -> Void) throws {
    guard let pages = try PagePool(pageCount: 2).tryTake(2) else {
      throw CheckFailure("no pages")
    }
    try body(pages.buffer.slice(0, 8), pages.buffer.slice(8, 8))
  }

  @Test func differencesBySector() throws {
    try withBuffers { one, other in
      Pattern("a").fill(one, from: 0)
      Pattern("a").fill(other, from: 0)
      #expect(one.differences(from: other).isEmpty)
      for place in [0, 1023, 1024, 4095] {
        other.withMutableBytes { bytes in
          bytes.storeBytes(of: 0, toByteOffset: place, as: UInt8.self)
        }
      }
      #expect(Array(one.differences(from: other).ranges) == [0..<3, 7..<8])
      other.copy(from: one)
      #expect(one.differences(from: other).isEmpty)
    }
  }

  @Test(arguments: [0, 1, 2047, 4095]) func zeros(place: Int) throws {
    try withBuffers { buffer, _ in
      buffer.clear()
      #expect(buffer.isZero && buffer.slice(3, 0).isZero)
      buffer.withMutableBytes { $0.storeBytes(of: 1, toByteOffset: place, as: UInt8.self) }
      #expect(!buffer.isZero)
      #expect(IOBuffer.zeroes.isZero && IOBuffer.zeroes.byteCount == 1 << 20)
    }
  }

  @Test func partsByByte() throws {
    try withBuffers { buffer, other in
      Pattern("a").fill(buffer, from: 0)
      other.clear()
      buffer.withBytes { bytes in
        other.store(bytes.extracting(5..<700), at: 5)
        other.store(bytes.extracting(700..<4096), at: 700)
      }
      other.store([UInt8]().span.bytes, at: 4096)
      buffer.clear(0..<5)
      #expect(buffer.differences(from: other).isEmpty)
      buffer.clear(4000..<4096)
      #expect(buffer.slice(0, 7).differences(from: other.slice(0, 7)).isEmpty)
      #expect(!buffer.differences(from: other).isEmpty)
    }
  }

  @Test func slicesAndCopies() throws {
    try withBuffers { buffer, other in
      Pattern("a").fill(buffer, from: 10)
      #expect(Pattern("a").mismatch(buffer.slice(2, 3), from: 12) == nil)
      #expect(buffer.slice(2, 3).sectorCount == 3 && buffer.slice(2, 3).byteCount == 1536)
      var bytes = [UInt8](repeating: 7, count: 2048)
      buffer.slice(1, 2).store(into: &bytes, at: 512)
      #expect(Array(bytes[512..<1536]) == Pattern("a").bytes(11..<13))
      #expect(bytes[..<512].allSatisfy { $0 == 7 } && bytes[1536...].allSatisfy { $0 == 7 })
      other.clear()
      other.slice(4, 2).load(from: bytes, at: 512)
      #expect(Pattern("a").mismatch(other.slice(4, 2), from: 11) == nil)
      #expect(other.slice(0, 4).isZero && other.slice(6, 2).isZero)
      let sum = other.withBytes { $0.byteCount }
      #expect(sum == 4096)
    }
  }
}

@Suite struct PatternTests {
  @Test func everySectorIsItsOwn() {
    let bytes = Pattern("disk").bytes(0..<1000)
    let bodies = stride(from: 16, to: bytes.count, by: 512).map { bytes[$0..<$0 + 496] }
    #expect(Set(bodies).count > 990)
    let head = bytes.dropFirst(512 * 17).prefix(16)
    #expect(String(decoding: head, as: UTF8.self) == "disk  :000000017")
    #expect(Pattern("disk").bytes(500..<600) == Array(bytes[512 * 500..<512 * 600]))
    #expect(Pattern("other").bytes(0..<1).suffix(496) != Pattern("disk").bytes(0..<1).suffix(496))
  }

  /// The canary: every single changed byte is found, and in the right sector.
  @Test func everyByteCounts() {
    let good = Pattern("disk").bytes(0..<4)
    #expect(Pattern("disk").mismatch(good, from: 0) == nil)
    for place in stride(from: 0, to: 2048, by: 31) {
      var bad = good
      bad[place] ^= 1
      let found = Pattern("disk").mismatch(bad, from: 0)
      let sector = Sector(UInt64(place / 512))
      #expect(found?.sectors == RangeSet(sector..<sector + 1))
    }
    #expect(Pattern("disk").mismatch(good, from: 1)?.sectors.sectorCount == 4)
  }

  @Test func inWords() {
    #expect(Pattern.describe([UInt8](repeating: 0, count: 512)) == "zeros")
    #expect(Pattern.describe(Pattern("a").bytes(9..<10)) == "'a     :000000009'")
    #expect(Pattern.describe([UInt8](repeating: 255, count: 512)).hasPrefix("ffff"))
  }
}

@Suite struct SeedTests {
  @Test func sameSeedSameNumbers() {
    var one = SeededRandom(seed: 1)
    var same = SeededRandom(seed: 1)
    var other = SeededRandom(seed: 2)
    let numbers = (0..<100).map { _ in one.next() }
    #expect(numbers == (0..<100).map { _ in same.next() })
    #expect(Set(numbers).isDisjoint(with: (0..<100).map { _ in other.next() }))
    // The reference values of SplitMix64.
    var reference = SeededRandom(seed: 1_234_567)
    #expect(reference.next() == 6_457_827_717_110_365_317)
    #expect(reference.next() == 3_203_168_211_198_807_973)
    var part = one.split()
    #expect(Set((0..<100).map { _ in part.next() }).isDisjoint(with: numbers))
  }

  @Test func rangesStayInside() {
    var random = SeededRandom(seed: 3)
    var seen = Set<Range<Sector>>()
    for _ in 0..<500 { seen.insert(random.range(in: 10..<14, longest: 3)) }
    #expect(
      seen == [10..<11, 11..<12, 12..<13, 13..<14, 10..<12, 11..<13, 12..<14, 10..<13, 11..<14])
  }

  @Test func failureNamesItsSeed() {
    let failure = #expect(throws: SeedFailure.self) {
      try forEachSeed(5, base: 100) { seed in try ensure(seed % 100 < 3, "too large") }
    }
    guard seeds(5).count == 5 else { return }
    #expect(failure?.seed == 103)
    #expect(failure?.description == "too large (replay with KCOPYD_SEED=103)")
  }
}

@Suite struct DirectLayoutTests {
  /// All pieces of a range.
  private func pieces(
    _ layout: DirectLayout, _ range: Range<UInt64>
  ) -> [(way: DirectLayout.Way, bytes: Range<UInt64>)] {
    var pieces: [(way: DirectLayout.Way, bytes: Range<UInt64>)] = []
    var rest = range
    while !rest.isEmpty, pieces.count < 1000 {
      let piece = layout.firstPiece(of: rest)
      pieces.append(piece)
      rest = piece.bytes.upperBound..<rest.upperBound
    }
    return pieces
  }

  @Test func piecesCoverTheRangeOnce() throws {
    try forEachSeed(2000) { seed in
      var random = SeededRandom(seed: seed)
      let block: UInt64 = [512, 1024, 4096, 8192, 16384].randomElement(using: &random) ?? 512
      let byteCount = 1 + random.next(upperBound: UInt64(100_000))
      let layout = DirectLayout(block: block, byteCount: byteCount, page: 4096)
      try ensure(layout.cachedStart <= byteCount, "the cached part starts behind the end")
      try ensure(layout.cachedStart % block == 0, "the cached part starts within a block")
      let cached = byteCount - layout.cachedStart
      try ensure(cached < max(block, 4096), "too much goes through the page cache")
      try ensure(byteCount % block != 0 || cached == 0, "needless use of the page cache")
      try ensure(cached == 0 || layout.cachedStart % 4096 == 0, "two ways in one page")

      // Requests start at sectors and end at sectors or the end of the file.
      let all = Sector.zero..<Sector(holding: byteCount)
      let sectors = random.range(in: all, longest: all.length)
      let range = sectors.lowerBound.bytes..<min(sectors.upperBound.bytes, byteCount)
      var position = range.lowerBound
      for (way, bytes) in pieces(layout, range) {
        try ensure(bytes.lowerBound == position && !bytes.isEmpty, "a gap or an overlap")
        position = bytes.upperBound
        switch way {
        case .direct:
          try ensure(bytes.lowerBound % block == 0, "a direct piece starts within a block")
          try ensure(bytes.upperBound % block == 0, "a direct piece ends within a block")
          try ensure(bytes.upperBound <= layout.cachedStart, "a direct piece in the cached part")
        case .bounce:
          let isOneBlock = bytes.lowerBound / block == (bytes.upperBound - 1) / block
          try ensure(isOneBlock, "a bounce piece of several blocks")
          try ensure(bytes.upperBound <= layout.cachedStart, "a bounce piece in the cached part")
          try ensure(UInt64(bytes.count) < block, "a whole block through the bounce block")
        case .cached:
          try ensure(bytes.lowerBound >= layout.cachedStart, "cached below the cached part")
        }
      }
      try ensure(position == range.upperBound, "the end is missing")
    }
  }

  @Test func examples() {
    let whole = DirectLayout(block: 4096, byteCount: 1 << 20, page: 4096)
    #expect(whole.cachedStart == 1 << 20)
    let ways = pieces(whole, 512..<12800)
    #expect(ways.map(\.way) == [.bounce, .direct, .bounce])
    #expect(ways.map(\.bytes) == [512..<4096, 4096..<12288, 12288..<12800])
    let odd = DirectLayout(block: 512, byteCount: 10_000, page: 4096)
    #expect(odd.cachedStart == 8192)
    #expect(pieces(odd, 7680..<10_000).map(\.way) == [.direct, .cached])
  }
}
