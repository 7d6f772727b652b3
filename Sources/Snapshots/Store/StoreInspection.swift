public import BlockIO

/// What a persistent store holds, found by reading alone: for looking at, checking and listing it.
public struct StoreInspection: Sendable {
  /// How serious a finding is.
  public enum Severity: String, Sendable {
    /// The store can't be used, or not in full.
    case error
    /// It can be used; something about it is worth knowing.
    case warning
  }

  /// Something that is not as it should be.
  public struct Finding: Hashable, Sendable {
    /// How serious it is.
    public let severity: Severity
    /// The byte on the COW device.
    public let offset: UInt64
    /// What, in words.
    public let text: String
  }

  /// Sectors of the origin that have a chunk of their own, and where on the COW device.
  public struct Change: Hashable, Sendable {
    /// The sectors of the origin.
    public let origin: Range<Sector>
    /// The first of as many sectors on the COW device.
    public let cow: Sector
  }

  /// The most findings that are kept.
  public static let maximumFindings = 1000

  /// The size of a chunk.
  public let chunkSize: ChunkSize
  /// Whether the header says so. The exceptions of an invalid store aren't read.
  public let isValid: Bool
  /// Exceptions for a chunk each.
  public let exceptionCount: UInt64
  /// Runs of neighbouring exceptions that are neighbours on the COW device, too.
  public let runCount: Int
  /// Areas of exceptions, the begun one included.
  public let areaCount: UInt64
  /// Sectors of the COW device in use, and in all.
  public let allocated: Sector
  /// The size of the COW device.
  public let total: Sector
  /// Sectors of header and areas.
  public let metadata: Sector
  /// What is not as it should be, in the order of the device.
  public let findings: [Finding]
  /// How many findings there were beyond those.
  public let omittedFindings: Int

  private let exceptions: RunMap
  private let originCount: Sector?

  /// Reads the store on `cow`.
  ///
  /// - Parameters:
  ///   - cow: the COW device; only read.
  ///   - origin: the device that it belongs to, if it is known: exceptions are compared with its
  ///     size, and the last chunk ends where it ends.
  ///   - loop: where it is read.
  /// - Throws: when there is no store, it can't be read, or its header is wrong; what is wrong
  ///   behind the header is a finding.
  public init(
    of cow: any BlockDevice, origin: (any BlockDevice)? = nil, on loop: IOLoop
  ) async throws(SnapshotError) {
    if let origin, origin.sharesSectors(with: cow) { throw .originIsCow(cow.name) }
    let loader = StoreLoader(device: cow, origin: origin, loop: loop, keepsEntries: false)
    var damages: [StoreDamage] = []
    var omitted = 0
    let loaded = try await loader.load { (damage) throws(SnapshotError) in
      if damages.count < Self.maximumFindings { damages.append(damage) } else { omitted += 1 }
    }
    guard let loaded else { throw .noStore(device: cow.name) }
    let geometry = loaded.geometry
    chunkSize = geometry.chunkSize
    isValid = loaded.isValid
    exceptions = loaded.exceptions
    exceptionCount = loaded.exceptions.count
    runCount = loaded.exceptions.runCount
    areaCount = loaded.area + 1
    let next = geometry.dataChunk(from: loaded.nextFree)
    allocated = chunkSize.start(of: next)
    total = cow.wholeSectorCount
    metadata = chunkSize.sectors * (loaded.area + 2)
    freeChunks =
      loaded.isValid
      ? geometry.room(
        from: next, area: loaded.area, entries: loaded.entryCount,
        total: geometry.chunkSize.wholeChunks(in: total)) : 0
    originCount = origin?.sectorCount
    findings =
      damages.sorted { $0.offset < $1.offset }.map {
        Finding(severity: .error, offset: $0.offset, text: $0.reason.description)
      } + Self.remarks(on: loaded, next: next, freeChunks)
    omittedFindings = omitted
  }

  /// Whether nothing is seriously wrong.
  public var isSound: Bool {
    omittedFindings == 0 && !findings.contains { $0.severity == .error }
  }

  /// The memory that the exceptions take, in bytes.
  public var memoryByteCount: Int { exceptions.byteCount }

  /// How many more chunks can be copied before the COW device is full.
  public let freeChunks: UInt64

  private static func remarks(
    on loaded: LoadedStore, next: CowChunk, _ freeChunks: UInt64
  ) -> [Finding] {
    let geometry = loaded.geometry
    var remarks: [Finding] = []
    if !loaded.isValid {
      remarks.append(
        Finding(
          severity: .error, offset: 4,
          text: "marked invalid: the snapshot is lost, its exceptions say nothing any more"))
    }
    if loaded.hasRemains {
      remarks.append(
        Finding(
          severity: .warning,
          offset: geometry.byteOffset(area: loaded.area, index: loaded.entryCount),
          text: "something lies behind the end of the list: left by a loss of power, or from "
            + "before; cleared here before the list grows"))
    }
    if loaded.isValid, freeChunks == 0 {
      remarks.append(
        Finding(
          severity: .warning, offset: geometry.chunkSize.start(of: next).bytes,
          text: "full: the next chunk that has to be copied makes the snapshot invalid"))
    }
    return remarks
  }

  /// Calls `body` with all changes, in the order of the origin: every sector in which the snapshot
  /// may differ from the origin as it is now, and no others.
  public func forEachChange<E: Error>(_ body: (Change) throws(E) -> Void) throws(E) {
    try exceptions.forEachRun { (run) throws(E) in
      let chunks = OriginChunk(run.key)..<OriginChunk(run.keys.upperBound)
      let origin = chunkSize.sectors(of: chunks).clamped(to: .zero..<(originCount ?? Sector(.max)))
      if !origin.isEmpty {
        try body(Change(origin: origin, cow: chunkSize.start(of: CowChunk(run.value))))
      }
    }
  }
}

/// Making stores.
public enum SnapshotStore {
  /// Makes a new, empty store, durable when this returns.
  ///
  /// - Parameters:
  ///   - cow: where; its first chunk and the second one are overwritten.
  ///   - origin: the device it is for; only looked at.
  ///   - chunkSize: nil for the default, see ``SnapshotParameters/chunkSize``.
  ///   - overwrites: whether something else may be there. Otherwise the first four bytes must be
  ///     zero.
  /// - Returns: the size of its chunks.
  public static func create(
    on cow: any BlockDevice, for origin: any BlockDevice, chunkSize: ChunkSize? = nil,
    overwrites: Bool = false, on loop: IOLoop
  ) async throws(SnapshotError) -> ChunkSize {
    guard !cow.sharesSectors(with: origin) else { throw .originIsCow(cow.name) }
    if !overwrites {
      let loader = StoreLoader(device: cow, origin: nil, loop: loop)
      guard try await loader.header() == nil else {
        throw .state("'\(cow.name)' holds a snapshot store already")
      }
    }
    return try await OpenedStore.make(on: cow, origin: origin, chunkSize).chunkSize
  }

  /// The size from which on the COW device of a whole origin can't run full.
  ///
  /// - Returns: nil when no device can be as large.
  public static func sizeForAll(
    of origin: any BlockDevice, chunkSize: ChunkSize
  ) -> Sector? {
    sizeForAll(of: origin.sectorCount, chunkSize: chunkSize)
  }

  /// The same for an origin of that many sectors.
  public static func sizeForAll(of sectorCount: Sector, chunkSize: ChunkSize) -> Sector? {
    let chunks: Range<OriginChunk> = chunkSize.chunks(touching: .zero..<sectorCount)
    let needed = StoreGeometry(chunkSize: chunkSize).chunksNeeded(for: UInt64(chunks.count))
    let (size, overflow) = needed.multipliedReportingOverflow(by: chunkSize.sectors.rawValue)
    return overflow || Sector(size).bytesOverflow ? nil : Sector(size)
  }
}
