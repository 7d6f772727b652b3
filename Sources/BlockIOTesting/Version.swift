import BlockIO

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// The number of a write: what a sector holds says which one it is from.
public struct Version: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// The number.
  public let rawValue: UInt32

  /// The version of that number.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// What a device holds at the beginning.
  public static let initial = Version(rawValue: 1)

  public static func < (left: Version, right: Version) -> Bool { left.rawValue < right.rawValue }

  /// `v` and the number.
  public var description: String { rawValue == .max ? "base" : "v\(rawValue)" }

  /// The content of `sectors`: all words of a sector are one, of version and sector. Made and read
  /// with a few operations on memory, since the simulation does that millions of times without the
  /// optimizer.
  public func bytes(_ sectors: Range<Sector>) -> [UInt8] {
    let wordCount = Int(sectors.length.bytes) / 8
    let words = [UInt64](unsafeUninitializedCapacity: wordCount) { words, initialized in
      for index in 0..<Int(sectors.length.rawValue) {
        let word =
          UInt64(rawValue) << 24 | (sectors.lowerBound.rawValue + UInt64(index) + 1)
        var pattern = word.littleEndian
        // Within `words`: 64 for each of the sectors that it was made for.
        guard let target = words.baseAddress.map({ $0 + index * 64 }) else { continue }
        withUnsafeBytes(of: &pattern) { source in
          if let base = source.baseAddress { memcpy(target, base, 8) }
        }
        for filled in [1, 2, 4, 8, 16, 32] { memcpy(target + filled, target, filled * 8) }
      }
      initialized = wordCount
    }
    return words.withUnsafeBytes { [UInt8]($0) }
  }
}

/// What a sector was found to hold.
public enum Content: Hashable, Sendable {
  case version(Version)
  case zeroes
  /// No content of that sector: torn, corrupt, of another sector.
  case other(UInt64)

  /// What the sectors from `first` on hold.
  public static func of(_ bytes: [UInt8], from first: Sector) -> [Content] {
    var contents: [Content] = []
    contents.reserveCapacity(bytes.count / 512)
    bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      for offset in stride(from: 0, to: bytes.count, by: 512) {
        let word = UInt64(littleEndian: bytes.load(fromByteOffset: offset, as: UInt64.self))
        let number = first.rawValue + UInt64(offset / 512) + 1
        // All words are the first one if each is the one before it. Within `bytes`: 512 each.
        if memcmp(base + offset, base + offset + 8, 504) != 0 {
          contents.append(.other(word))
        } else if word == 0 {
          contents.append(.zeroes)
        } else if word & 0xff_ffff == number, word >> 24 < UInt64(UInt32.max) {
          contents.append(.version(Version(rawValue: UInt32(word >> 24))))
        } else {
          contents.append(.other(word))
        }
      }
    }
    return contents
  }
}
