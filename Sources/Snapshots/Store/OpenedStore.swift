import BlockIO

/// The store of a snapshot, found on its COW device or made there.
struct OpenedStore {
  let store: any ExceptionStore
  let exceptions: RunMap
  let isValid: Bool
  /// Whether it was made just now.
  let isFresh: Bool

  /// Opens the store, or makes one on a device whose first four bytes are zero.
  init(
    cow: any BlockDevice, origin: any BlockDevice, _ parameters: SnapshotParameters,
    mustExist: Bool, on loop: IOLoop
  ) async throws(SnapshotError) {
    guard parameters.store.isPersistent else {
      guard let size = parameters.chunkSize else {
        throw .chunkSize("a transient store needs a chunk size")
      }
      if let rule = StoreLoader.blockObjection(to: size, cow: cow, origin: origin) {
        throw .chunkSize("a chunk size of \(size.sectors.rawValue) sectors: \(rule)")
      }
      store = TransientStore(device: cow, chunkSize: size)
      (exceptions, isValid, isFresh) = (RunMap(), true, true)
      return
    }
    if let loaded = try await StoreLoader(device: cow, origin: origin, loop: loop).load() {
      do throws(IOFailure) {
        store = try PersistentStore(loaded, on: cow)
      } catch {
        throw .io(error)
      }
      (exceptions, isValid, isFresh) = (loaded.exceptions, loaded.isValid, false)
      return
    }
    guard !mustExist, !cow.limits.isReadOnly else { throw .noStore(device: cow.name) }
    store = try await Self.make(on: cow, origin: origin, parameters.chunkSize)
    (exceptions, isValid, isFresh) = (RunMap(), true, true)
  }

  /// Makes a new store.
  static func make(
    on cow: any BlockDevice, origin: any BlockDevice, _ chunkSize: ChunkSize?
  ) async throws(SnapshotError) -> PersistentStore {
    let size: ChunkSize
    if let chunkSize { size = chunkSize } else { size = try defaultSize(cow) }
    if let rule = StoreLoader.objection(to: size, cow: cow, origin: origin) {
      throw .chunkSize("a chunk size of \(size.sectors.rawValue) sectors: \(rule)")
    }
    guard size.wholeChunks(in: cow.wholeSectorCount) >= 2 else {
      throw .damaged(
        StoreDamage(
          device: cow.name, offset: cow.byteCount, reason: .truncated(chunksNeeded: 2)))
    }
    do throws(IOFailure) {
      return try await PersistentStore(newOn: cow, StoreGeometry(chunkSize: size))
    } catch {
      throw .io(error)
    }
  }

  /// 16 KiB, or the COW device's logical block if that is larger.
  private static func defaultSize(_ cow: any BlockDevice) throws(SnapshotError) -> ChunkSize {
    let block = Sector(UInt64(cow.limits.logicalBlock) / Sector.byteCount)
    guard let size = ChunkSize(max(32, block)) else {
      throw .chunkSize("the \(cow.limits.logicalBlock)-byte blocks of '\(cow.name)' fit no chunk")
    }
    return size
  }
}
