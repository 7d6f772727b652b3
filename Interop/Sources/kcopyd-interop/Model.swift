import BlockIO
import Snapshots

/// What an origin and its snapshots must hold: plain arrays, written beside the devices. Nothing in
/// it is read back through the library, nor worked out by it.
struct Model {
  private(set) var origin: [UInt8]
  private(set) var snapshots: [ModelSnapshot] = []

  var sectorCount: Sector { Sector(UInt64(origin.count) / Sector.byteCount) }

  init(sectorCount: Sector) {
    origin = Pattern.sectors("origin v1", .zero..<sectorCount)
  }

  mutating func takeSnapshot(chunk: Sector, store: StoreKind) {
    snapshots.append(ModelSnapshot(content: origin, chunk: chunk, store: store))
  }

  /// Writes to the origin: each snapshot keeps what was there.
  mutating func writeOrigin(_ bytes: [UInt8], at sectors: Range<Sector>) {
    origin.replace(sectors, with: bytes)
    for index in snapshots.indices { snapshots[index].noteExceptions(for: sectors) }
  }

  mutating func write(_ bytes: [UInt8], at sectors: Range<Sector>, toSnapshot index: Int) {
    snapshots[index].noteExceptions(for: sectors)
    snapshots[index].content.replace(sectors, with: bytes)
  }

  /// There was no room for a chunk of the origin: from now on the snapshot shows nothing.
  mutating func lose(snapshot index: Int) { snapshots[index].isLost = true }

  /// Merges the last exceptions of the only snapshot into the origin, down to `remaining`.
  mutating func merge(downTo remaining: Int) {
    for chunk in snapshots[0].exceptions[remaining...] {
      let start = snapshots[0].chunk * chunk.rawValue
      let sectors = start..<min(start + snapshots[0].chunk, sectorCount)
      origin.replace(sectors, with: snapshots[0].content[bytes(of: sectors)])
    }
    snapshots[0].dropExceptions(from: remaining)
  }

  /// Writes to the only snapshot while it is being merged, and shows both sides from then on:
  /// where there is no exception any more, the origin itself is written.
  mutating func writeMerging(_ bytes: [UInt8], at sectors: Range<Sector>) {
    let written = sectors.split(by: snapshots[0].chunk)
    snapshots[0].content.replace(sectors, with: bytes)
    for part in written where !snapshots[0].hasException(for: part) {
      origin.replace(part, with: snapshots[0].content[self.bytes(of: part)])
    }
  }

  private func bytes(of sectors: Range<Sector>) -> Range<Int> {
    Int(sectors.lowerBound.bytes)..<Int(sectors.upperBound.bytes)
  }
}

/// What one snapshot must show, and how much of its store that takes.
struct ModelSnapshot {
  let chunk: Sector
  let store: StoreKind
  var content: [UInt8]
  var isLost = false
  /// The chunks with an exception, in the order in which these were made.
  private(set) var exceptions: [OriginChunk] = []
  private var known = Set<OriginChunk>()

  init(content: [UInt8], chunk: Sector, store: StoreKind) {
    self.content = content
    self.chunk = chunk
    self.store = store
  }

  mutating func noteExceptions(for sectors: Range<Sector>) {
    guard !isLost else { return }
    for part in sectors.split(by: chunk) {
      let number = number(of: part)
      if known.insert(number).inserted { exceptions.append(number) }
    }
  }

  mutating func dropExceptions(from index: Int) {
    exceptions.removeLast(exceptions.count - index)
    known = Set(exceptions)
  }

  /// Whether the chunk has one in which these sectors – all of one chunk – lie.
  func hasException(for sectors: Range<Sector>) -> Bool { known.contains(number(of: sectors)) }

  private func number(of sectors: Range<Sector>) -> OriginChunk {
    OriginChunk(sectors.lowerBound.rawValue / chunk.rawValue)
  }

  // MARK: What dmsetup must print

  /// Exceptions in an area, which is one chunk of 16-byte entries.
  private var perArea: Int { Int(chunk.bytes) / 16 }
  private var fullAreas: UInt64 { UInt64(exceptions.count / perArea) }

  /// The status behind the target's name, with a COW device of that size.
  func status(cow: Sector) -> String {
    if isLost { return "Invalid" }
    // Header, full areas, the begun one, and the data chunks in between.
    let metadata = chunk * (fullAreas + 2)
    let allocated = metadata + chunk * UInt64(exceptions.count)
    return "\(allocated.rawValue)/\(cow.rawValue) \(metadata.rawValue)"
  }

  /// The status when all of it has been merged.
  func mergedStatus(cow: Sector) -> String {
    "\((chunk * 2).rawValue)/\(cow.rawValue) \((chunk * 2).rawValue)"
  }

  /// The table line behind the target's name, the devices by what they are for.
  var table: String { "ORIGIN COW \(store.rawValue) \(chunk.rawValue)" }
}

extension Range<Sector> {
  /// The parts that lie in one chunk, or region, each.
  func split(by chunk: Sector) -> [Range<Sector>] {
    var parts: [Range<Sector>] = []
    var start = lowerBound
    while start < upperBound {
      let next = chunk * (start.rawValue / chunk.rawValue + 1)
      parts.append(start..<Swift.min(next, upperBound))
      start = next
    }
    return parts
  }
}

extension [UInt8] {
  mutating func replace(_ sectors: Range<Sector>, with bytes: some Collection<UInt8>) {
    replaceSubrange(Int(sectors.lowerBound.bytes)..<Int(sectors.upperBound.bytes), with: bytes)
  }
}
