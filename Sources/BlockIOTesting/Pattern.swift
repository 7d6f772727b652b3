import BlockIO

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Content that says of every sector whose and which it is: 16 bytes of text – label, colon, nine
/// digits of the sector number – and 496 bytes that are a function of the two.
///
/// Made and checked with one copy and one comparison per sector, since tests do that millions of
/// times without the optimizer.
public struct Pattern: Hashable, Sendable, CustomStringConvertible {
  /// Whose.
  public let label: String
  private let hash: UInt64

  /// The pattern of `label`: up to six ASCII characters.
  public init(_ label: String) {
    precondition(label.utf8.count <= 6, "a label of more than six bytes")
    self.label = label
    hash = label.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
  }

  /// The label.
  public var description: String { label }

  // MARK: Making

  /// The content of `sectors`.
  public func bytes(_ sectors: Range<Sector>) -> [UInt8] {
    let count = Int(sectors.length.bytes)
    return [UInt8](unsafeUninitializedCapacity: count) { target, initialized in
      if let target = UnsafeMutableRawPointer(target.baseAddress) {
        for index in 0..<sectors.length.rawValue {
          // Within `target`: `index` is less than the number of sectors that it was made for.
          put(sectors.lowerBound.rawValue + index, at: target + Int(index) * 512)
        }
      }
      initialized = count
    }
  }

  /// Fills `buffer` with the content of the sectors from `first` on.
  public func fill(_ buffer: IOBuffer, from first: Sector) {
    buffer.load(from: bytes(first..<first + buffer.sectorCount))
  }

  /// `target` has 512 bytes.
  private func put(_ number: UInt64, at target: UnsafeMutableRawPointer) {
    memset(target, 0x20, 6)
    var place = 0
    for character in label.utf8 {
      target.storeBytes(of: character, toByteOffset: place, as: UInt8.self)
      place += 1
    }
    target.storeBytes(of: UInt8(ascii: ":"), toByteOffset: 6, as: UInt8.self)
    var rest = number
    for place in stride(from: 15, through: 7, by: -1) {
      target.storeBytes(
        of: UInt8(ascii: "0") + UInt8(rest % 10), toByteOffset: place, as: UInt8.self)
      rest /= 10
    }
    // Any place in the noise at which 496 bytes are left.
    var random = SeededRandom(seed: hash ^ number)
    let start = Int(random.next() % UInt64(Self.noise.count - 496))
    Self.noise.withUnsafeBytes { noise in
      if let noise = noise.baseAddress { memcpy(target + 16, noise + start, 496) }
    }
  }

  private static let noise: [UInt8] = {
    var random = SeededRandom(seed: 0x6b63_6f70_7964)
    var words: [UInt64] = []
    for _ in 0..<8192 { words.append(random.next().littleEndian) }
    return words.withUnsafeBytes { [UInt8]($0) }
  }()

  // MARK: Checking

  /// What of `buffer` isn't the content of the sectors from `first` on.
  public func mismatch(_ buffer: IOBuffer, from first: Sector) -> ContentMismatch? {
    var bytes = [UInt8](repeating: 0, count: buffer.byteCount)
    buffer.store(into: &bytes)
    return mismatch(bytes, from: first)
  }

  /// What of `bytes` isn't the content of the sectors from `first` on.
  public func mismatch(_ bytes: [UInt8], from first: Sector) -> ContentMismatch? {
    let sectors = first..<first + Sector(holding: UInt64(bytes.count))
    return ContentMismatch(bytes, expected: self.bytes(sectors), from: first)
  }

  /// What the first bytes of a sector say it is, for people: `'src:000000017'`, `zeros` …
  public static func describe(_ sector: [UInt8]) -> String {
    let head = sector.prefix(16)
    if sector.allSatisfy({ $0 == 0 }) { return "zeros" }
    if head.allSatisfy({ (0x20..<0x7f).contains($0) }) {
      let text = String(decoding: head, as: UTF8.self)
      let parts = text.split(separator: ":", maxSplits: 1)
      guard parts.count == 2, let number = UInt64(parts[1]) else { return "'\(text)'" }
      let label = String(parts[0].prefix { $0 != " " })
      let isWhole = label.utf8.count <= 6 && Pattern(label).isContent(sector, of: Sector(number))
      return "'\(text)'" + (isWhole ? "" : " with other bytes behind it")
    }
    let digits = "0123456789abcdef".map(String.init)
    return head.map { digits[Int($0 >> 4)] + digits[Int($0 & 15)] }.joined() + "…"
  }

  private func isContent(_ bytes: [UInt8], of sector: Sector) -> Bool {
    bytes == self.bytes(sector..<sector + 1)
  }
}

/// Content that isn't what it should be, by sector.
public struct ContentMismatch: Error, Equatable, CustomStringConvertible {
  /// The sectors that differ.
  public let sectors: RangeSet<Sector>
  /// What the first of them holds, and what it should hold.
  public let first: String

  /// What differs between `bytes` and `expected`, two contents of the same length that start at
  /// sector `first`; nil when nothing does.
  public init?(_ bytes: [UInt8], expected: [UInt8], from first: Sector) {
    precondition(bytes.count == expected.count && bytes.count % 512 == 0)
    var sectors = RangeSet<Sector>()
    bytes.withUnsafeBytes { bytes in
      expected.withUnsafeBytes { expected in
        guard let left = bytes.baseAddress, let right = expected.baseAddress,
          memcmp(left, right, bytes.count) != 0
        else { return }
        // Within both: they have the same length, a multiple of 512.
        for offset in stride(from: 0, to: bytes.count, by: 512)
        where memcmp(left + offset, right + offset, 512) != 0 {
          let sector = first + Sector(UInt64(offset / 512))
          sectors.insert(sector..<sector + 1)
        }
      }
    }
    guard let bad = sectors.ranges.first?.lowerBound else { return nil }
    self.sectors = sectors
    let offset = Int((bad - first).bytes)
    let found = Pattern.describe(Array(bytes[offset..<offset + 512]))
    let wanted = Pattern.describe(Array(expected[offset..<offset + 512]))
    self.first = "sector \(bad.rawValue) holds \(found) instead of \(wanted)"
  }

  /// One line: the first sector and which others.
  public var description: String {
    let all = sectors.ranges.map(\.label).joined(separator: ", ")
    return "\(first); \(sectors.sectorCount.rawValue) in all: \(all)"
  }
}
