import BlockIO
import SystemPackage

/// A store in the kernel's format, open for writing.
///
/// What is written, and in which order, is what the format stands on:
/// - a new store: area 0 zeroed, rest of the header's chunk zeroed – durable – then the header;
/// - a commit: if it fills the area, the next one zeroed; data and these zeros durable; then the
///   entries, durable. Only the blocks that change are written; the others have been zeros since
///   the area was cleared;
/// - before the first commit to a list that something lies behind: that cleared, durable.
final class PersistentStore: ExceptionStore {
  let device: any BlockDevice
  let geometry: StoreGeometry

  private var nextFree: CowChunk
  /// The area that isn't full yet, and what it holds.
  private var area: UInt64
  private var entries: [Exception]
  /// Exceptions allocated and not yet committed.
  private var uncommitted = 0
  private var hasRemains: Bool
  /// The entry from which on some may be missing on the disk: clearing them failed.
  private var firstInDoubt: Int?
  private let pages: PagePool
  /// The unit in which metadata are written.
  private let block: Sector

  var chunkSize: ChunkSize { geometry.chunkSize }

  /// The store that was found on the device.
  init(_ loaded: LoadedStore, on device: any BlockDevice) throws(IOFailure) {
    self.device = device
    geometry = loaded.geometry
    area = loaded.area
    entries = loaded.entries
    nextFree = geometry.dataChunk(from: loaded.nextFree)
    hasRemains = loaded.hasRemains
    block = Self.block(geometry, device)
    pages = try Self.reserve(geometry, device)
  }

  /// A new store, written to the device, durable when this returns.
  init(newOn device: any BlockDevice, _ geometry: StoreGeometry) async throws(IOFailure) {
    self.device = device
    self.geometry = geometry
    area = 0
    entries = []
    nextFree = StoreGeometry.firstDataChunk
    hasRemains = false
    block = Self.block(geometry, device)
    pages = try Self.reserve(geometry, device)
    let header = chunkSize.sectors(of: 0 as CowChunk)
    try await device.writeZeroes(
      chunkSize.sectors(of: geometry.area(0)), mayUnmap: false)
    let rest = header.lowerBound + block..<header.upperBound
    if !rest.isEmpty { try await device.writeZeroes(rest, mayUnmap: false) }
    // Were the header there and the zeros not, old content would be read as exceptions.
    try await device.flush()
    try await writeHeader(isValid: true)
  }

  // MARK: Header

  func invalidate() async throws(IOFailure) { try await writeHeader(isValid: false) }

  /// Writes the header of a valid store once more, durably.
  func renewHeader() async throws(IOFailure) { try await writeHeader(isValid: true) }

  private func writeHeader(isValid: Bool) async throws(IOFailure) {
    let pages = await pages.take(PagePool.pages(holding: block))
    let buffer = pages.buffer.slice(.zero, block)
    buffer.clear()
    StoreHeader(chunkSize: chunkSize, isValid: isValid).encode(into: buffer)
    try await device.write(.zero..<block, from: buffer, options: .durable)
  }

  // MARK: Allocation

  var allocated: Sector { chunkSize.start(of: nextFree) }
  var metadata: Sector { chunkSize.sectors * (area + 2) }

  var sizeForNext: Sector {
    let data = chunkSize.sectors(of: nextFree).upperBound
    // The entry that fills an area needs the next area: a list without an end can't be read.
    let ordinal = entries.count + uncommitted + 1
    guard ordinal.isMultiple(of: geometry.exceptionsPerArea) else { return data }
    let next = area + UInt64(ordinal / geometry.exceptionsPerArea)
    return max(data, chunkSize.sectors(of: geometry.area(next)).upperBound)
  }

  func allocate() -> CowChunk? {
    guard sizeForNext <= device.wholeSectorCount, nextFree.rawValue < Exception.chunkLimit else {
      return nil
    }
    defer { nextFree = geometry.dataChunk(from: nextFree.advanced(by: 1)) }
    uncommitted += 1
    return nextFree
  }

  // MARK: Commit

  /// The most entries whose blocks fit into the reserve.
  private static let entriesPerWrite = 4096

  var commitLimit: Int {
    let used = entries.count % geometry.exceptionsPerArea
    return min(geometry.exceptionsPerArea - used, Self.entriesPerWrite)
  }

  func commit(_ batch: [Exception]) async throws(IOFailure) {
    precondition(1...commitLimit ~= batch.count, "a commit across areas")
    if hasRemains { try await clearRemains() }
    try await settleDoubt()
    if entries.count == geometry.exceptionsPerArea { leaveFullArea() }
    let first = entries.count
    entries += batch
    uncommitted -= batch.count
    let isFull = entries.count == geometry.exceptionsPerArea
    if isFull {
      try await device.writeZeroes(
        chunkSize.sectors(of: geometry.area(area + 1)), mayUnmap: false)
    }
    try await device.flush()
    try await writeEntries(first..<entries.count)
    if isFull { leaveFullArea() }
  }

  /// Writes what may be missing on the disk: behind a gap, entries are behind the end of the list.
  private func settleDoubt() async throws(IOFailure) {
    guard let first = firstInDoubt else { return }
    try await writeEntries(first..<entries.count)
    firstInDoubt = nil
  }

  /// Goes on to the next area, which is empty: it was cleared before this one was filled, or by a
  /// merge that went back to this one and left it as it was.
  private func leaveFullArea() {
    area += 1
    entries.removeAll(keepingCapacity: true)
  }

  /// Zeros everything in the area behind the end of the list, except what shares a block with it:
  /// that is written with the next entries, in one block, which is written or not as a whole.
  private func clearRemains() async throws(IOFailure) {
    let chunk = chunkSize.sectors(of: geometry.area(area))
    let used = Sector(holding: UInt64(entries.count * Exception.byteCount))
    let kept = Sector((used.rawValue + block.rawValue - 1) / block.rawValue * block.rawValue)
    if chunk.lowerBound + kept < chunk.upperBound {
      try await device.writeZeroes(chunk.lowerBound + kept..<chunk.upperBound, mayUnmap: false)
    }
    if kept > .zero {
      let perBlock = Int(block.bytes) / Exception.byteCount
      let last = (entries.count - 1) / perBlock * perBlock
      try await writeEntries(last..<entries.count)
    }
    try await device.flush()
    hasRemains = false
  }

  /// Writes the blocks that hold these entries of the area, zeros behind the last one; durable.
  private func writeEntries(_ changed: Range<Int>) async throws(IOFailure) {
    let perBlock = Int(block.bytes) / Exception.byteCount
    let firstBlock = changed.lowerBound / perBlock
    let endBlock = max(firstBlock + 1, (changed.upperBound + perBlock - 1) / perBlock)
    let length = block * UInt64(endBlock - firstBlock)
    let pages = await pages.take(PagePool.pages(holding: length))
    let buffer = pages.buffer.slice(.zero, length)
    let known = entries.prefix(endBlock * perBlock).dropFirst(firstBlock * perBlock)
    Exception.encode(known, into: buffer)
    buffer.clear(known.count * Exception.byteCount..<buffer.byteCount)
    let first = chunkSize.start(of: geometry.area(area)) + block * UInt64(firstBlock)
    try await device.write(first..<first + length, from: buffer, options: .durable)
  }

  /// What the device writes as a whole, and not more than a chunk.
  private static func block(_ geometry: StoreGeometry, _ device: any BlockDevice) -> Sector {
    let limits = device.limits
    let physical = max(limits.logicalBlock, min(limits.physicalBlock, PagePool.pageSize))
    return min(Sector(holding: UInt64(physical)), geometry.chunkSize.sectors)
  }

  private static func reserve(
    _ geometry: StoreGeometry, _ device: any BlockDevice
  ) throws(IOFailure) -> PagePool {
    // A commit's blocks, a begun one at its start included, and a header.
    let entries = min(geometry.exceptionsPerArea, entriesPerWrite)
    let bytes = Sector(holding: UInt64(entries * Exception.byteCount)) + block(geometry, device) * 2
    return try PagePool(pageCount: PagePool.pages(holding: bytes) + 1)
  }

  /// Allocates only behind `chunk` from now on: a merge goes back over the store by number of
  /// entries, and with those of old kernels a chunk behind that may still be in use.
  func allocate(behind chunk: CowChunk) {
    nextFree = geometry.dataChunk(from: max(nextFree, chunk.advanced(by: 1)))
  }

  // MARK: Merge

  /// The last exceptions of the store, `limit` at most and all of one area, in the order of the
  /// store; none when it is empty.
  func tail(_ limit: Int) async throws(IOFailure) -> ArraySlice<Exception> {
    precondition(uncommitted == 0, "a merge while exceptions are being made")
    if hasRemains { try await clearRemains() }
    try await settleDoubt()
    if entries.isEmpty {
      guard area > 0 else { return [] }
      entries = try await readArea(area - 1)
      area -= 1
    }
    return entries.suffix(limit)
  }

  /// Takes the last `count` exceptions away, durably. Their chunks must be durable on the origin.
  ///
  /// A loss of power on the way may leave some of them behind a new end of the list: they are
  /// remains then, and those before that end are merged a second time. After an error they are all
  /// still here: whoever takes the store over finds chunks in them that were written since.
  func clearTail(_ count: Int) async throws(IOFailure) {
    let cleared = entries.suffix(count)
    entries.removeLast(count)
    do throws(IOFailure) {
      try await writeCleared(upTo: entries.count + count)
    } catch {
      firstInDoubt = entries.count
      entries += cleared
      throw error
    }
    firstInDoubt = nil
    nextFree = CowChunk(geometry.area(area).rawValue + UInt64(entries.count) + 1)
  }

  /// Zeros the places from the end of the list up to `end`, durably.
  private func writeCleared(upTo end: Int) async throws(IOFailure) {
    var end = end
    // In pieces that fit the reserve, the last one first: an end before others would hide them.
    repeat {
      let start = max(entries.count, (end - 1) / Self.entriesPerWrite * Self.entriesPerWrite)
      try await writeEntries(start..<end)
      end = start
    } while end > entries.count
  }

  private func readArea(_ number: UInt64) async throws(IOFailure) -> [Exception] {
    let sectors = chunkSize.sectors(of: geometry.area(number))
    let step = Sector(holding: UInt64(Self.entriesPerWrite * Exception.byteCount))
    var result: [Exception] = []
    var position = sectors.lowerBound
    while position < sectors.upperBound {
      let length = min(step, sectors.upperBound - position)
      let pages = await pages.take(PagePool.pages(holding: length))
      let buffer = pages.buffer.slice(.zero, length)
      try await device.read(position..<position + length, into: buffer)
      for offset in stride(from: 0, to: buffer.byteCount, by: Exception.byteCount) {
        let exception = Exception(buffer, at: offset)
        guard exception.new.rawValue > 0 else {
          throw IOFailure(
            .read, device.name, position..<position + length, errno: .ioError,
            detail: "an exception has gone from area \(number), which was full")
        }
        result.append(exception)
      }
      position += length
    }
    return result
  }
}
