/// An address on a block device, or a length of one, in sectors of 512 bytes.
///
/// The unit of every region, whatever the block size of the device. A type of its own, so that
/// sectors, chunks and bytes can't be mixed up. Arithmetic traps on overflow.
public struct Sector: Hashable, Comparable, Sendable, ExpressibleByIntegerLiteral {
  /// The size of a sector in bytes.
  public static let byteCount: UInt64 = 512

  /// No sector; the first sector of a device.
  public static let zero = Sector(0)

  /// How many sectors.
  public var rawValue: UInt64

  /// The sector with that number, or that many sectors.
  @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }

  /// The sector with that number, or that many sectors.
  @inlinable public init(integerLiteral value: UInt64) { rawValue = value }

  /// As many whole sectors as hold `bytes`, a begun one counted as whole.
  @inlinable public init(holding bytes: UInt64) {
    rawValue = bytes / Sector.byteCount + (bytes % Sector.byteCount == 0 ? 0 : 1)
  }

  /// The same in bytes.
  @inlinable public var bytes: UInt64 { rawValue * Sector.byteCount }

  /// Whether the number of bytes doesn't fit into what operating systems take (2^63 − 1).
  public var bytesOverflow: Bool { rawValue > UInt64(Int64.max) / Sector.byteCount }

  @inlinable public static func < (left: Sector, right: Sector) -> Bool {
    left.rawValue < right.rawValue
  }

  @inlinable public static func + (left: Sector, right: Sector) -> Sector {
    Sector(left.rawValue + right.rawValue)
  }

  @inlinable public static func - (left: Sector, right: Sector) -> Sector {
    Sector(left.rawValue - right.rawValue)
  }

  @inlinable public static func * (left: Sector, right: UInt64) -> Sector {
    Sector(left.rawValue * right)
  }

  @inlinable public static func += (left: inout Sector, right: Sector) { left = left + right }

  @inlinable public static func -= (left: inout Sector, right: Sector) { left = left - right }
}

extension Range<Sector> {
  /// How many sectors the range holds.
  @inlinable public var length: Sector { upperBound - lowerBound }

  /// The same range `distance` sectors further up.
  @inlinable public func shifted(by distance: Sector) -> Range<Sector> {
    lowerBound + distance..<upperBound + distance
  }

  /// The range in the field's own way of writing: first and last sector.
  public var label: String {
    switch length {
    case 0: "no sectors"
    case 1: "sector \(lowerBound.rawValue)"
    default: "sectors \(lowerBound.rawValue)–\((upperBound - 1).rawValue)"
    }
  }
}

extension RangeSet<Sector> {
  /// How many sectors the set holds.
  public var sectorCount: Sector { ranges.reduce(.zero) { $0 + $1.length } }

  /// Adds a range; an empty one changes nothing.
  public mutating func insert(_ range: Range<Sector>) {
    if !range.isEmpty { insert(contentsOf: range) }
  }
}
