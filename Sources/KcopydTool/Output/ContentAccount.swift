import BlockIO
import Imaging
import Kcopyd

/// The part of an account that has to do with content: hashes, what was found when read back, how
/// much is allocated.
struct ContentAccount {
  /// Nothing was wanted.
  init() {}

  init(request: ContentRequest, source: String, cloned: Set<Int>, hash: SourceHash?) {
    self.request = request
    self.source = source
    self.cloned = cloned
    digest = hash?.digest?.hexadecimal
    windows = hash?.windows ?? []
  }

  private var request: ContentRequest?
  private var source = ""
  private var digest: String?
  private var windows: [SourceHash.Window] = []
  /// Destinations that share the source's blocks, by index.
  private(set) var cloned: Set<Int> = []
  /// nil: not read back.
  var verified: [VerifiedDestination]?
  /// The bytes of storage that regular files take.
  var allocated: [UInt64?] = []

  /// Whether the hash is what it was wanted to be.
  private var isExpected: Bool { request?.expected.map { $0 == digest } ?? true }

  private var isHashed: Bool { request?.hash == nil || digest != nil }

  private var wasVerified: Bool {
    request?.verifyRetries == nil || (verified?.allSatisfy(\.isRight) ?? false)
  }

  /// Whether all is as it was wanted.
  var isGood: Bool { isExpected && isHashed && wasVerified }

  /// By destination, what it was found not to hold; from that sector of the source on.
  func absent(from first: Sector) -> [RangeSet<Sector>] {
    (verified ?? []).map { found in
      RangeSet(found.differing.union(found.unreadable).ranges.map { $0.shifted(by: first) })
    }
  }

  // MARK: Text

  /// What was wanted to be known: hashes in the format of `sha256sum`.
  var results: [String] {
    guard let digest, let hash = request?.hash else { return [] }
    return windows.map {
      "\($0.digest.hexadecimal)  \(source) bytes \($0.bytes.lowerBound)–\($0.bytes.upperBound - 1)"
        + " (\(hash.rawValue))"
    } + ["\(digest)  \(source)"]
  }

  /// What the text of success ends with.
  func successes(_ progress: CopyProgress.Snapshot) -> [String] {
    let written = progress.destinations.map { $0.written - $0.equal }.reduce(0, +)
    return successes(
      bytes: progress.destinations.map(\.written).max() ?? 0, differing: written)
  }

  /// The same of a copy of so many bytes, of which so many differed if that is known.
  func successes(bytes: UInt64, differing: UInt64? = nil) -> [String] {
    var parts: [String] = []
    if !cloned.isEmpty {
      parts.append(cloned.count == allocated.count ? "cloned" : "\(cloned.count) of them cloned")
    }
    if request?.differencesOnly == true, let differing {
      parts.append("\(Format.bytes(differing)) differed")
    }
    if verified != nil { parts.append("verified") }
    let sizes = allocated.compactMap(\.self)
    if let most = sizes.max(), let request, request.sparse != .auto || most < bytes {
      parts.append("\(Format.bytes(most)) allocated")
    }
    if let verified, verified.contains(where: { $0.rewritten > .zero }) {
      let sectors = verified.reduce(Sector.zero) { $0 + $1.rewritten }
      parts.append("\(sectors.rawValue) sectors written again")
    }
    return parts
  }

  /// What isn't as it was wanted.
  func troubles(_ names: [String]) -> [String] {
    var lines: [String] = []
    if !isHashed { lines.append("no hash: not all of '\(source)' was read") }
    if !isExpected, let expected = request?.expected {
      lines.append(
        "'\(source)' isn't what was expected; what was copied is not to be trusted:"
          + "\n  expected \(expected)\n  found    \(digest ?? "no hash: not all of it was read")")
    }
    for (index, found) in (verified ?? []).enumerated() where !found.isRight {
      let name = names[index]
      if !found.differing.isEmpty {
        lines.append(
          "'\(name)' holds something else: sectors \(Format.ranges(found.differing, limit: 16))")
      }
      if !found.unreadable.isEmpty {
        lines.append(
          "'\(name)' can't be read back: sectors \(Format.ranges(found.unreadable, limit: 16))"
            + (found.failure.map { ": \($0.reason)" } ?? ""))
      }
      if !found.unchecked.isEmpty {
        lines.append(
          "'\(name)' wasn't verified: sectors \(Format.ranges(found.unchecked, limit: 16))")
      }
    }
    if request?.verifyRetries != nil, verified == nil { lines.append("not verified: interrupted") }
    return lines
  }

  // MARK: JSON

  struct HashDocument: Encodable {
    struct Window: Encodable {
      let offset: UInt64
      let bytes: UInt64
      let digest: String
    }

    let algorithm: String
    let digest: String?
    let expected: String?
    let matches: Bool?
    let windows: [Window]?
  }

  /// The hash for programs.
  var hashDocument: HashDocument? {
    guard let request, let hash = request.hash else { return nil }
    return HashDocument(
      algorithm: hash.rawValue, digest: digest, expected: request.expected,
      matches: request.expected.map { $0 == digest },
      windows: request.window == nil
        ? nil
        : windows.map {
          .init(
            offset: $0.bytes.lowerBound, bytes: UInt64($0.bytes.count),
            digest: $0.digest.hexadecimal)
        })
  }

  struct VerifiedDocument: Encodable {
    let right: Bool
    let differing: [[UInt64]]
    let unreadable: [[UInt64]]
    let unchecked: [[UInt64]]
    let sectorsRewritten: UInt64
  }

  /// What was found at a destination, for programs: ranges are first sector and count.
  func verifiedDocument(_ index: Int) -> VerifiedDocument? {
    guard let found = verified?[index] else { return nil }
    func ranges(_ set: RangeSet<Sector>) -> [[UInt64]] {
      set.ranges.map { [$0.lowerBound.rawValue, $0.length.rawValue] }
    }
    return VerifiedDocument(
      right: found.isRight, differing: ranges(found.differing),
      unreadable: ranges(found.unreadable), unchecked: ranges(found.unchecked),
      sectorsRewritten: found.rewritten.rawValue)
  }
}
