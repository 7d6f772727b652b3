import BlockIO

/// What a store held when it was read.
struct LoadedStore {
  let geometry: StoreGeometry
  /// Whether the header says so. The exceptions of an invalid store aren't read.
  var isValid: Bool
  /// Origin chunks to COW chunks.
  var exceptions = RunMap()
  /// The area that isn't full yet, and what it holds.
  var area: UInt64 = 0
  var entries: [Exception] = []
  var entryCount = 0
  /// The first chunk behind all that are used.
  var nextFree = StoreGeometry.firstDataChunk
  /// Whether there is anything but zeros behind the end of the list in its area: entries that
  /// would come alive if the list grew up to them.
  var hasRemains = false
}

/// Reads a persistent store and looks at every number in it.
struct StoreLoader {
  let device: any BlockDevice
  /// The device that the exceptions are for, where it is known.
  let origin: (any BlockDevice)?
  let loop: IOLoop
  /// Whether the entries of the last area are wanted, and not only their number.
  var keepsEntries = true

  /// Reads at once: kernels read ahead 12 areas.
  private static let window = 16
  private static let pieceByteCount = 1 << 20

  /// What to do about a damage: throw, or take note and go on without that exception.
  typealias Handler = (StoreDamage) throws(SnapshotError) -> Void

  static func refuse(_ damage: StoreDamage) throws(SnapshotError) { throw .damaged(damage) }

  // MARK: Header

  /// Reads the header; nil when the device is a new one: its first four bytes are zero.
  func header() async throws(SnapshotError) -> (StoreHeader, StoreGeometry)? {
    let block = Sector(holding: UInt64(device.limits.logicalBlock))
    guard device.wholeSectorCount >= block else { throw damage(0, .truncated(chunksNeeded: 2)) }
    let pages = try Self.reserve(block)
    let buffer = pages.buffer.slice(.zero, block)
    try await read(.zero..<block, into: buffer).get()
    let header = StoreHeader(buffer)
    guard header.magic != 0 else { return nil }
    guard header.magic == StoreHeader.magic else {
      throw damage(0, .foreignMagic(header.magic))
    }
    guard header.version == StoreHeader.version else {
      throw damage(8, .version(header.version))
    }
    let sectors = Sector(UInt64(header.chunkSectors))
    guard let size = ChunkSize(sectors) else {
      throw damage(12, .chunkSize(header.chunkSectors, rule: SnapshotError.chunkRule))
    }
    if let rule = Self.objection(to: size, cow: device, origin: origin) {
      throw damage(12, .chunkSize(header.chunkSectors, rule: rule))
    }
    let geometry = StoreGeometry(chunkSize: size)
    guard size.wholeChunks(in: device.wholeSectorCount) >= 2 else {
      throw damage(device.byteCount, .truncated(chunksNeeded: 2))
    }
    return (header, geometry)
  }

  /// Why a persistent store on these devices can't have that chunk size; nil if it can.
  static func objection(
    to size: ChunkSize, cow: any BlockDevice, origin: (any BlockDevice)?
  ) -> String? {
    if size.sectors < ChunkSize.persistentMinimum {
      return "it must be at least \(ChunkSize.persistentMinimum.rawValue)"
    }
    return blockObjection(to: size, cow: cow, origin: origin)
  }

  /// The part of the rule that holds for transient stores, too.
  static func blockObjection(
    to size: ChunkSize, cow: any BlockDevice, origin: (any BlockDevice)?
  ) -> String? {
    for device in [cow, origin].compactMap(\.self)
    where size.sectors.bytes % UInt64(device.limits.logicalBlock) != 0 {
      return "no multiple of the \(device.limits.logicalBlock)-byte blocks of '\(device.name)'"
    }
    return nil
  }

  // MARK: Areas

  /// Reads the store; nil when the device is a new one.
  func load(_ handle: Handler = StoreLoader.refuse) async throws(SnapshotError) -> LoadedStore? {
    guard let (header, geometry) = try await header() else { return nil }
    var store = LoadedStore(geometry: geometry, isValid: header.isValid)
    guard header.isValid else { return store }
    var reading = Reading(
      geometry: geometry, device: device, keepsEntries: keepsEntries,
      originChunks: origin.map { origin in
        let chunks: Range<OriginChunk> = geometry.chunkSize.chunks(
          touching: .zero..<origin.sectorCount)
        return UInt64(chunks.count)
      })
    let pieceSectors = min(geometry.chunkSize.sectors, Sector(holding: UInt64(Self.pieceByteCount)))
    let most = max(1, Self.pieceByteCount / Int(pieceSectors.bytes))
    let window = min(Self.window, most)
    let pages = try Self.reserve(pieceSectors * UInt64(window))
    var next = AreaPiece(area: 0, offset: .zero, length: pieceSectors)
    var ahead = 1
    while !reading.hasEnded {
      let pieces = next.following(ahead, in: geometry, device: device)
      guard !pieces.isEmpty else {
        let offset = geometry.byteOffset(area: next.area, index: 0)
        try handle(StoreDamage(device: device.name, offset: offset, reason: .noTerminator))
        break
      }
      let results = await read(pieces, geometry, into: pages.buffer)
      for (index, piece) in pieces.enumerated() where !reading.hasEnded {
        try results[index].get()
        try reading.take(
          piece, pages.buffer.slice(pieceSectors * UInt64(index), pieceSectors), handle)
        next = piece.next(in: geometry)
      }
      ahead = min(ahead * 2, window)
    }
    try reading.settle(handle)
    store.exceptions = reading.exceptions
    store.area = reading.area
    store.entries = reading.entries
    store.entryCount = reading.entryCount
    store.nextFree = reading.nextFree
    store.hasRemains = reading.hasRemains
    return store
  }

  /// Reads pieces at once, each to its place in `buffer`.
  private func read(
    _ pieces: [AreaPiece], _ geometry: StoreGeometry, into buffer: IOBuffer
  ) async -> [Result<Void, SnapshotError>] {
    await withTaskGroup { group in
      for (index, piece) in pieces.enumerated() {
        let part = buffer.slice(piece.length * UInt64(index), piece.length)
        let sectors = piece.sectors(in: geometry)
        group.addTask(executorPreference: loop) { [self] in (index, await read(sectors, into: part))
        }
      }
      var results = pieces.map { _ in Result<Void, SnapshotError>.success(()) }
      for await (index, result) in group { results[index] = result }
      return results
    }
  }

  private func read(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) async -> Result<Void, SnapshotError> {
    do throws(IOFailure) {
      return .success(try await device.read(sectors, into: buffer))
    } catch {
      return .failure(.io(error))
    }
  }

  private func damage(_ offset: UInt64, _ reason: StoreDamage.Reason) -> SnapshotError {
    .damaged(StoreDamage(device: device.name, offset: offset, reason: reason))
  }

  private static func reserve(_ sectors: Sector) throws(SnapshotError) -> Pages {
    do throws(IOFailure) {
      return try PagePool.lend(holding: sectors)
    } catch {
      throw .io(error)
    }
  }
}

/// A part of an area that is read in one go: the whole of it, except with very large chunks.
private struct AreaPiece: Sendable {
  var area: UInt64
  var offset: Sector
  let length: Sector

  func sectors(in geometry: StoreGeometry) -> Range<Sector> {
    let start = geometry.chunkSize.start(of: geometry.area(area)) + offset
    return start..<start + length
  }

  func next(in geometry: StoreGeometry) -> AreaPiece {
    let end = offset + length
    return end < geometry.chunkSize.sectors
      ? AreaPiece(area: area, offset: end, length: length)
      : AreaPiece(area: area + 1, offset: .zero, length: length)
  }

  /// This piece and those after it, `count` at most, as far as the device goes.
  func following(
    _ count: Int, in geometry: StoreGeometry, device: any BlockDevice
  ) -> [AreaPiece] {
    var pieces: [AreaPiece] = []
    var piece = self
    while pieces.count < count, piece.sectors(in: geometry).upperBound <= device.wholeSectorCount {
      pieces.append(piece)
      piece = piece.next(in: geometry)
    }
    return pieces
  }
}

/// Entries being taken in, one after the other, until the one that ends the list.
private struct Reading {
  let geometry: StoreGeometry
  let device: any BlockDevice
  let originChunks: UInt64?
  let keepsEntries: Bool

  var exceptions = RunMap()
  var entries: [Exception] = []
  var entryCount = 0
  var area: UInt64 = 0
  var nextFree = StoreGeometry.firstDataChunk
  var hasRemains = false
  /// The list has ended and the rest of its area has been seen.
  var hasEnded = false

  /// COW chunks in use, to find those used twice. In a store from one writer a run or two.
  private var used = RunMap()
  private var isBehindEnd = false

  /// Entries that are still to go into `exceptions`: many at once and in order, because a place in
  /// a large map is found several times faster beside the one before.
  private var batch: [Entry] = []
  private static let batchCount = 1 << 20

  private struct Entry {
    let exception: Exception
    /// Where on the device it stands.
    let offset: UInt64
  }

  init(
    geometry: StoreGeometry, device: any BlockDevice, keepsEntries: Bool, originChunks: UInt64?
  ) {
    self.geometry = geometry
    self.keepsEntries = keepsEntries
    self.device = device
    self.originChunks = originChunks
  }

  mutating func take(
    _ piece: AreaPiece, _ buffer: IOBuffer, _ handle: StoreLoader.Handler
  ) throws(SnapshotError) {
    let base = Int(piece.offset.bytes) / Exception.byteCount
    for index in 0..<buffer.byteCount / Exception.byteCount {
      let exception = Exception(buffer, at: index * Exception.byteCount)
      if exception.new.rawValue == 0 { isBehindEnd = true }
      if isBehindEnd {
        if exception.old.rawValue != 0 || exception.new.rawValue != 0 { hasRemains = true }
        continue
      }
      entryCount += 1
      if keepsEntries { entries.append(exception) }
      let offset = geometry.byteOffset(area: piece.area, index: base + index)
      if let reason = check(exception) {
        try handle(StoreDamage(device: device.name, offset: offset, reason: reason))
      } else {
        batch.append(Entry(exception: exception, offset: offset))
      }
    }
    if batch.count >= Self.batchCount { try settle(handle) }
    guard piece.next(in: geometry).area != area else { return }
    if isBehindEnd {
      hasEnded = true
    } else {
      area += 1
      entries.removeAll(keepingCapacity: true)
      entryCount = 0
    }
  }

  /// Puts what has been gathered into the map.
  mutating func settle(_ handle: StoreLoader.Handler) throws(SnapshotError) {
    var twice: [Entry] = []
    // Of two for the same chunk the second one is wrong.
    batch.sort {
      ($0.exception.old.rawValue, $0.offset) < ($1.exception.old.rawValue, $1.offset)
    }
    for entry in batch {
      let (old, new) = (entry.exception.old.rawValue, entry.exception.new.rawValue)
      if !exceptions.insert(old, new) { twice.append(entry) }
    }
    batch.removeAll(keepingCapacity: true)
    for entry in twice.sorted(by: { $0.offset < $1.offset }) {
      try handle(
        StoreDamage(
          device: device.name, offset: entry.offset,
          reason: .originChunkTwice(entry.exception)))
    }
  }

  /// What is wrong with an exception, apart from its being one too many for its chunk.
  private mutating func check(_ exception: Exception) -> StoreDamage.Reason? {
    let new = exception.new.rawValue
    let cowChunks = min(
      geometry.chunkSize.wholeChunks(in: device.wholeSectorCount), RunMap.Run.limit)
    if new >= cowChunks { return .beyondCow(exception) }
    if geometry.isMetadata(exception.new) { return .inMetadata(exception) }
    if exception.old.rawValue >= min(originChunks ?? .max, RunMap.Run.limit) {
      return .beyondOrigin(exception)
    }
    if !used.insert(new, new) { return .cowChunkTwice(exception) }
    nextFree = max(nextFree, CowChunk(new + 1))
    return nil
  }
}
