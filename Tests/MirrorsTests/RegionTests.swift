import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Mirrors

/// Regions as numbers, sizes and bits.
@Suite struct RegionTests {
  @Test func sizesArePowersOfTwo() {
    for sectors in [0, 1, 3, 6, 12, 1000, UInt64.max] {
      #expect(RegionSize(Sector(sectors)) == nil)
    }
    for shift in 1..<64 {
      let sectors = Sector(1 << UInt64(shift))
      #expect(RegionSize(sectors)?.sectors == sectors)
    }
  }

  @Test func theLastRegionMayBeShort() throws {
    let size = try #require(RegionSize(16))
    let counts = [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (1000, 63), (1008, 63), (2048, 128)]
    for (length, count) in counts {
      #expect(size.count(in: Sector(UInt64(length))) == UInt64(count))
    }
    #expect(size.count(in: Sector(.max)) == 1 << 60)
  }

  @Test func regionsAndSectorsOfEachOther() throws {
    let size = try #require(RegionSize(32))
    #expect(size.region(of: 31) == 0)
    #expect(size.region(of: 32) == 1)
    #expect(size.regions(touching: 31..<33) == 0..<2)
    #expect(size.regions(touching: 32..<64) == 1..<2)
    #expect(size.regions(touching: 32..<32).isEmpty)
    #expect(size.sectors(of: 1..<3) == 32..<96)
  }

  /// Bits behind the last region are never 1, and don't count.
  @Test(arguments: [1, 31, 32, 63, 64, 65, 125, 128] as [UInt64])
  func aTailIsZero(_ count: UInt64) {
    let wordCount = Int((count + 63) / 64)
    let tail = count % 64 == 0 ? UInt64.max : 1 << (count % 64) - 1
    for bits in [
      RegionBits(count: count, repeating: true),
      RegionBits(words: Array(repeating: .max, count: wordCount), count: count),
    ] {
      #expect(bits.setCount == count)
      #expect(bits.words.count == wordCount)
      #expect(bits.words.last == tail)
      #expect(bits.firstClear(from: 0) == nil)
    }
    #expect(RegionBits(count: count).setCount == 0)
    #expect(RegionBits(count: count).firstClear(from: 0) == 0)
    #expect(RegionBits(count: count).firstClear(from: Region(count)) == nil)
  }

  /// Against a set of numbers.
  @Test func bitsAreASet() throws {
    try forEachSeed(20) { seed in
      var random = SeededRandom(seed: seed)
      let count = UInt64.random(in: 1...200, using: &random)
      var bits = RegionBits(count: count)
      var set = Set<UInt64>()
      for _ in 0..<400 {
        let region = UInt64.random(in: 0..<count, using: &random)
        let value = Bool.random(using: &random)
        bits[Region(region)] = value
        if value { set.insert(region) } else { set.remove(region) }
        try ensure(bits[Region(region)] == value, "region \(region)")
        try ensure(bits.setCount == UInt64(set.count), "\(bits.setCount) of \(set.count)")
        let start = UInt64.random(in: 0...count, using: &random)
        let clear = (start..<count).first { !set.contains($0) }
        try ensure(bits.firstClear(from: Region(start))?.rawValue == clear, "from \(start)")
      }
    }
  }
}
