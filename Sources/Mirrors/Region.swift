public import BlockIO

/// A region of a mirror by its number: the unit in which it is known what is in sync.
public struct Region: Hashable, Strideable, Sendable, ExpressibleByIntegerLiteral {
  /// The number, from 0 on.
  public var rawValue: UInt64

  /// The region of that number.
  @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }

  /// The region of that number.
  @inlinable public init(integerLiteral value: UInt64) { rawValue = value }

  @inlinable public static func < (left: Region, right: Region) -> Bool {
    left.rawValue < right.rawValue
  }

  @inlinable public func distance(to other: Region) -> Int {
    Int(Int64(bitPattern: other.rawValue &- rawValue))
  }

  @inlinable public func advanced(by count: Int) -> Region {
    Region(UInt64(Int64(rawValue) + Int64(count)))
  }
}

/// The size of a region: a power of two of sectors, at least 2.
public struct RegionSize: Hashable, Sendable {
  /// The most regions of a mirror; the newest kernels refuse more.
  public static let maximumCount: UInt64 = 1 << 32 - 1

  private let shift: UInt64

  /// A region of `sectors`; nil unless that is a power of two from 2 on.
  public init?(_ sectors: Sector) {
    guard sectors >= 2, sectors.rawValue.nonzeroBitCount == 1 else { return nil }
    shift = UInt64(sectors.rawValue.trailingZeroBitCount)
  }

  /// The size in sectors.
  public var sectors: Sector { Sector(1 << shift) }

  /// How many regions a mirror of that length has, a begun one counted.
  public func count(in length: Sector) -> UInt64 {
    length.rawValue >> shift + (length.rawValue & (1 << shift - 1) == 0 ? 0 : 1)
  }

  /// The region in which a sector lies.
  func region(of sector: Sector) -> Region { Region(sector.rawValue >> shift) }

  /// All regions that share a sector with `sectors`.
  func regions(touching sectors: Range<Sector>) -> Range<Region> {
    guard !sectors.isEmpty else { return 0..<0 }
    return region(of: sectors.lowerBound)..<region(of: sectors.upperBound - 1).advanced(by: 1)
  }

  /// The sectors of adjacent regions; the last one of a mirror may reach beyond its end.
  func sectors(of regions: Range<Region>) -> Range<Sector> {
    Sector(regions.lowerBound.rawValue << shift)..<Sector(regions.upperBound.rawValue << shift)
  }
}

/// A set of regions as one bit each.
struct RegionBits: Sendable {
  /// Region n is bit n mod 64 of word n / 64: in memory as on disk.
  private(set) var words: [UInt64]
  let count: UInt64
  /// How many bits are 1.
  private(set) var setCount: UInt64

  init(count: UInt64, repeating value: Bool = false) {
    self.count = count
    words = Array(repeating: value ? .max : 0, count: Int((count + 63) / 64))
    setCount = value ? count : 0
    clearTail()
  }

  init(words: [UInt64], count: UInt64) {
    precondition(words.count == Int((count + 63) / 64))
    self.words = words
    self.count = count
    setCount = 0
    clearTail()
    setCount = self.words.reduce(0) { $0 + UInt64($1.nonzeroBitCount) }
  }

  /// Bits behind the last region are 0.
  private mutating func clearTail() {
    if count % 64 != 0, let last = words.indices.last { words[last] &= 1 << (count % 64) - 1 }
  }

  subscript(region: Region) -> Bool {
    get { words[Int(region.rawValue / 64)] >> (region.rawValue % 64) & 1 == 1 }
    set {
      guard newValue != self[region] else { return }
      words[Int(region.rawValue / 64)] ^= 1 << (region.rawValue % 64)
      setCount = newValue ? setCount + 1 : setCount - 1
    }
  }

  /// Sets all bits of `regions`, by words.
  mutating func set(_ regions: Range<Region>, to value: Bool) {
    var region = regions.lowerBound
    while region < regions.upperBound {
      if region.rawValue % 64 == 0, region.rawValue + 64 <= regions.upperBound.rawValue {
        let index = Int(region.rawValue / 64)
        setCount -= UInt64(words[index].nonzeroBitCount)
        words[index] = value ? .max : 0
        setCount += value ? 64 : 0
        region = region.advanced(by: 64)
      } else {
        self[region] = value
        region = region.advanced(by: 1)
      }
    }
  }

  /// Regions whose bit is 1 here and 0 in `other`, which has as many.
  func subtracting(_ other: RegionBits) -> [Region] {
    var regions: [Region] = []
    for (index, word) in words.enumerated() {
      var rest = word & ~other.words[index]
      while rest != 0 {
        regions.append(Region(UInt64(index * 64 + rest.trailingZeroBitCount)))
        rest &= rest - 1
      }
    }
    return regions
  }

  /// The first region from `start` on whose bit is 0.
  func firstClear(from start: Region) -> Region? {
    var index = start.rawValue
    while index < count {
      let rest = ~words[Int(index / 64)] >> (index % 64)
      if rest != 0 {
        let found = index + UInt64(rest.trailingZeroBitCount)
        return found < count ? Region(found) : nil
      }
      index = (index / 64 + 1) * 64
    }
    return nil
  }
}
