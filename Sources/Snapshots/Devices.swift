public import BlockIO
import Synchronization
import SystemPackage

/// The origin of snapshots as a device: whatever is written to it is copied for them first. The
/// kernel's `snapshot-origin`.
///
/// Discards and zeroing by command aren't passed on: the snapshots couldn't follow.
public final class OriginDevice: BlockDevice {
  /// The origin that this is the device of.
  public let origin: Origin

  init(_ origin: Origin) { self.origin = origin }

  public var name: String { origin.underlying.name }
  public var sectorCount: Sector { origin.underlying.sectorCount }
  public var byteCount: UInt64 { origin.underlying.byteCount }
  public var limits: DeviceLimits { .passedOn(origin.underlying.limits) }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    guard origin.hasMerge.load(ordering: .relaxed) else {
      return try await origin.underlying.read(sectors, into: buffer)
    }
    try check(sectors, for: .read)
    try await origin.readMerged(name, sectors, into: buffer)
  }

  /// While a snapshot is merged, sectors may be on its COW device still.
  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool {
    guard !origin.hasMerge.load(ordering: .relaxed) else { return false }
    return try origin.underlying.readNow(sectors, into: buffer)
  }

  /// On the origin's loop only, and where every snapshot has what it is about to lose.
  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool {
    try check(sectors, for: .write)
    guard origin.beginWriteHere(sectors) else { return false }
    defer { origin.endWriteHere() }
    return try origin.underlying.writeNow(sectors, from: buffer, options: options)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try check(sectors, for: .write)
    // On the loop already, and nothing to be done first: the change to the actor and back would
    // take longer than starting the write.
    if origin.beginWriteHere(sectors) {
      defer { origin.endWriteHere() }
      return try await origin.underlying.write(sectors, from: buffer, options: options)
    }
    try await origin.write(sectors, from: buffer, options: options)
  }

  public func flush() async throws(IOFailure) {
    guard origin.hasMerge.load(ordering: .relaxed) else {
      return try await origin.underlying.flush()
    }
    try await origin.flushMerged()
  }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    guard origin.hasMerge.load(ordering: .relaxed) else {
      return try await origin.underlying.blockStatus(sectors, limit: limit)
    }
    try check(sectors, for: .blockStatus)
    return try await origin.mergedBlockStatus(name, sectors, limit: limit)
  }
}

/// A snapshot as a device: what the origin held when it was first resumed, and what has been
/// written to it since. The kernel's `snapshot`.
public final class SnapshotDevice: BlockDevice {
  public let name: String
  public let sectorCount: Sector
  public let byteCount: UInt64
  public let limits: DeviceLimits
  /// The size of its chunks: the store's own, whatever was asked for.
  public let chunkSize: ChunkSize

  private let origin: Origin
  private let id: SnapshotID

  init(_ origin: Origin, _ snapshot: Snapshot) {
    self.origin = origin
    id = snapshot.id
    name = snapshot.cow.name
    sectorCount = snapshot.sectorCount
    // An origin may end within its last sector.
    byteCount = min(sectorCount.bytes, origin.underlying.byteCount)
    chunkSize = snapshot.chunkSize
    var limits = DeviceLimits.passedOn(origin.underlying.limits)
    limits.logicalBlock = max(limits.logicalBlock, snapshot.cow.limits.logicalBlock)
    limits.physicalBlock = max(limits.physicalBlock, snapshot.cow.limits.physicalBlock)
    limits.isReadOnly = snapshot.cow.limits.isReadOnly
    limits.supportsFUA = snapshot.cow.limits.supportsFUA
    limits.supportsDiscard =
      snapshot.parameters.discardZeroesCow && origin.underlying.limits.supportsDiscard
      && snapshot.cow.limits.supportsDiscard
    self.limits = limits
  }

  // MARK: Requests

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try check(sectors, for: .read)
    try await origin.read(id, name, sectors, into: buffer)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try check(sectors, for: .write)
    if limits.isReadOnly {
      throw IOFailure(.write, name, sectors, errno: .readOnlyFileSystem)
    }
    try await origin.write(id, name, sectors, from: buffer, options: options)
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try check(sectors, for: .discard)
    try await origin.discard(id, name, sectors)
  }

  public func flush() async throws(IOFailure) { try await origin.flush(id, name) }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try check(sectors, for: .blockStatus)
    return try await origin.blockStatus(id, name, sectors, limit: limit)
  }

  // MARK: Life

  /// Makes the snapshot live. The first time, that is its point in time: no write to the origin is
  /// under way then, and all later ones are copied for it first.
  ///
  /// - Throws: when the snapshot whose store it takes over isn't suspended, or a store without
  ///   exceptions can't be made sure to be on the disk.
  public func resume() async throws(SnapshotError) { try await origin.resume(id) }

  /// Waits until no request is under way. Origin writes go on being copied.
  public func suspend() async { await origin.suspend(id) }

  /// Takes the snapshot away from its origin. Its store stays as it is.
  public func remove() async { await origin.remove(id) }

  /// How it is doing.
  public var status: SnapshotStatus { get async { await origin.status(id) } }

  /// The words of its table line that follow the devices, with the chunk size in use.
  public var tableWords: String { get async { await origin.tableWords(id) } }
}

/// A snapshot being merged into its origin, as a device: reads as if that were done already. The
/// kernel's `snapshot-merge`; stands in for ``Origin/device`` meanwhile, and afterwards is it.
public final class MergeDevice: BlockDevice {
  /// The size of its chunks.
  public let chunkSize: ChunkSize

  private let device: OriginDevice
  private let id: SnapshotID
  private let isResumed = Atomic<Bool>(false)

  init(_ origin: Origin, _ snapshot: Snapshot) {
    device = origin.device
    id = snapshot.id
    chunkSize = snapshot.chunkSize
  }

  public var name: String { device.name }
  public var sectorCount: Sector { device.sectorCount }
  public var byteCount: UInt64 { device.byteCount }
  public var limits: DeviceLimits { device.limits }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try checkResumed(.read, sectors)
    try await device.read(sectors, into: buffer)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try checkResumed(.write, sectors)
    try await device.write(sectors, from: buffer, options: options)
  }

  public func flush() async throws(IOFailure) { try await device.flush() }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try checkResumed(.blockStatus, sectors)
    return try await device.blockStatus(sectors, limit: limit)
  }

  /// Before it is resumed it is nothing but the origin, which must not be written past the store.
  private func checkResumed(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>
  ) throws(IOFailure) {
    guard isResumed.load(ordering: .relaxed) else {
      throw IOFailure(
        operation, name, sectors, errno: .ioError, detail: "the merge has not been resumed yet")
    }
  }

  /// Starts merging, or goes on with it after ``suspend()``.
  public func resume() async throws(SnapshotError) {
    try await device.origin.resume(id)
    isResumed.store(true, ordering: .relaxed)
  }

  /// Stops merging after the current step, and waits until no request is under way.
  public func suspend() async { await device.origin.suspend(id) }

  /// Takes the snapshot away; with what is left of it in the store a merge can go on later.
  public func remove() async { await device.origin.remove(id) }

  /// Waits until the merge is finished, has failed or was suspended.
  public func waitUntilEnded() async { await device.origin.waitForMerge(id) }

  /// How it is doing: finished when `allocated` equals `metadata`.
  public var status: SnapshotStatus { get async { await device.origin.status(id) } }

  /// The words of its table line that follow the devices.
  public var tableWords: String { get async { await device.origin.tableWords(id) } }
}

extension DeviceLimits {
  /// What a device that can only read, write and flush passes on of the limits below it.
  fileprivate static func passedOn(_ below: DeviceLimits) -> DeviceLimits {
    var limits = below
    limits.supportsDiscard = false
    limits.supportsWriteZeroes = false
    return limits
  }
}
