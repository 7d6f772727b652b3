import CBlockIO
import Logging
import SystemPackage

/// A regular file or a block special as a block device.
///
/// Opened with `O_DIRECT` its transfers go through the loop's backend, straight between the disk
/// and the pages; otherwise through the page cache, small ones on the spot where they don't wait,
/// large ones on a thread. The size is that of the moment of opening, until ``refreshSize()`` or
/// ``grow(to:)``.
public final class FileDevice: BlockDevice {
  public let name: String
  public let identity: DeviceIdentity
  public let placements: [DevicePlacement]
  public let limits: DeviceLimits
  /// Whether transfers bypass the page cache.
  public let isDirect: Bool
  /// Whether the file is a block special.
  public let isBlockSpecial: Bool
  /// Why `O_DIRECT` is used or not, for `--explain`.
  public let directReason: String

  private let loop: IOLoop
  private let cached: PageCachedFile
  private let direct: DirectFile?

  init(opened: OpenedFile, name: String, loop: IOLoop) throws(IOFailure) {
    self.name = name
    self.loop = loop
    identity = opened.identity
    placements = opened.placements
    limits = opened.limits
    isBlockSpecial = opened.isBlockSpecial
    isDirect = opened.direct != nil
    directReason = opened.directReason
    let cached = PageCachedFile(
      file: opened.cached, name: name, byteCount: opened.byteCount, identity: opened.identity,
      isInMemory: opened.isInMemory)
    self.cached = cached
    direct = try opened.direct.map { (file) throws(IOFailure) in
      try DirectFile(
        file: file, cached: cached, block: opened.limits.logicalBlock,
        memoryAlignment: opened.memoryAlignment)
    }
  }

  public var byteCount: UInt64 { cached.byteCount }

  public var sectorCount: Sector { Sector(holding: byteCount) }

  public var pageCachedFile: PageCachedFile? { isDirect ? nil : cached }

  // MARK: Transfers

  /// The largest transfer that is tried on the spot: handing it to a thread and back costs as much
  /// as copying that.
  private static let onTheSpotLimit = Sector(holding: 256 << 10)

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    if try readNow(sectors, into: buffer) { return }
    if let direct { return try await direct.read(sectors, into: buffer, loop: loop) }
    try await loop.transferring { [cached] in
      Result { () throws(IOFailure) in try cached.read(sectors, into: buffer) }
    }.get()
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    if try writeNow(sectors, from: buffer, options: options) { return }
    // What lives in memory is as durable as it gets.
    let options = cached.isInMemory ? [] : options
    if let direct {
      return try await direct.write(sectors, from: buffer, options: options, loop: loop)
    }
    guard !options.contains(.durable) else {
      return try await loop.blocking { [cached] in
        Result { () throws(IOFailure) in
          try cached.write(sectors, from: buffer, options: .durable)
        }
      }.get()
    }
    try await loop.transferring { [cached] in
      Result { () throws(IOFailure) in try cached.write(sectors, from: buffer, options: []) }
    }.get()
  }

  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool {
    precondition(buffer.sectorCount == sectors.length)
    try check(sectors, for: .read)
    guard !isDirect, buffer.sectorCount <= Self.onTheSpotLimit else { return false }
    return try cached.readOnTheSpot(sectors, into: buffer) == .done
  }

  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool {
    precondition(buffer.sectorCount == sectors.length)
    try check(sectors, for: .write)
    guard !isDirect, buffer.sectorCount <= Self.onTheSpotLimit,
      cached.isInMemory || !options.contains(.durable)
    else { return false }
    return try cached.writeOnTheSpot(sectors, from: buffer) == .done
  }

  // MARK: Other requests

  public func flush() async throws(IOFailure) {
    if cached.isInMemory { return }
    // One sync serves both descriptors: it is the file that is synchronised.
    try await call(.flush, nil) { blockio_sync_data($0) }
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try check(sectors, for: .writeZeroes)
    guard !sectors.isEmpty else { return }
    let bytes = bytes(of: sectors)
    let block = UInt64(limits.logicalBlock)
    // A begun block of a disk can't be zeroed by command; a file system does it by itself.
    let isWhole = bytes.lowerBound % block == 0 && bytes.upperBound % block == 0
    guard limits.supportsWriteZeroes, isWhole || !isBlockSpecial else {
      return try await writeZeroesFromMemory(sectors)
    }
    do throws(IOFailure) {
      try await call(.writeZeroes, sectors) { [isBlockSpecial] fd in
        blockio_write_zeroes(
          fd, isBlockSpecial, bytes.lowerBound, UInt64(bytes.count), mayUnmap)
      }
    } catch  where error.errno == .notSupportedOnSocket || error.errno == .notSupported {
      // A file system that can't.
      try await writeZeroesFromMemory(sectors)
    }
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try check(sectors, for: .discard)
    guard !sectors.isEmpty else { return }
    let bytes = bytes(of: sectors)
    try await call(.discard, sectors) { [isBlockSpecial] fd in
      blockio_discard(fd, isBlockSpecial, bytes.lowerBound, UInt64(bytes.count))
    }
  }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try check(sectors, for: .blockStatus)
    guard !isBlockSpecial else {
      return sectors.isEmpty ? [] : [BlockExtent(sectors, .unknown)]
    }
    return try await loop.blocking { [cached] in
      Result { () throws(IOFailure) in try cached.extents(of: sectors, limit: limit) }
    }.get()
  }

  // MARK: Size

  public func grow(to sectorCount: Sector) async throws(IOFailure) {
    try await refreshSize()
    guard sectorCount > self.sectorCount else { return }
    guard !isBlockSpecial, !limits.isReadOnly, !sectorCount.bytesOverflow else {
      throw IOFailure(.grow, name, errno: .notSupported)
    }
    let bytes = sectorCount.bytes
    try await call(.grow, nil) { blockio_extend($0, bytes) }
    cached.noteSize(bytes)
  }

  public func refreshSize() async throws(IOFailure) {
    let fd = cached.file.rawValue
    let size = await loop.blocking { [isBlockSpecial] in blockio_size(fd, isBlockSpecial) }
    guard size >= 0 else { throw IOFailure(.open, name, errno: Errno(rawValue: Int32(-size))) }
    cached.noteSize(UInt64(size))
  }

  /// How many bytes of storage a regular file takes; nil for disks.
  public func allocatedBytes() -> UInt64? {
    guard !isBlockSpecial else { return nil }
    let bytes = blockio_allocated(cached.file.rawValue)
    return bytes >= 0 ? UInt64(bytes) : nil
  }

  // MARK: Cache and clones

  /// Lets go of what the page cache holds of the file, so that reads come from the disk. What isn't
  /// durable stays: flush first.
  public func dropCache() async {
    let fd = cached.file.rawValue
    // Only advice: where it isn't taken the cache goes on being used.
    _ = await loop.blocking { blockio_drop_cache(fd) }
  }

  /// Makes this file a clone of `other`, which is as long: both share its blocks until one of them
  /// is written.
  ///
  /// - Throws: where the file systems can't do it, as a rule `EOPNOTSUPP` or `EXDEV`; nothing has
  ///   been changed then.
  public func clone(_ other: FileDevice) async throws(IOFailure) {
    guard !isBlockSpecial, !other.isBlockSpecial, byteCount == other.byteCount else {
      throw IOFailure(.clone, name, errno: .invalidArgument, detail: "only whole files are cloned")
    }
    let from = other.cached.file.rawValue
    try await call(.clone, nil) { blockio_clone($0, from) }
  }

  private func bytes(of sectors: Range<Sector>) -> Range<UInt64> {
    sectors.lowerBound.bytes..<min(sectors.upperBound.bytes, byteCount)
  }

  /// Makes a call that may take long on a thread.
  private func call(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>?,
    _ body: @escaping @Sendable (Int32) -> Int32
  ) async throws(IOFailure) {
    let fd = cached.file.rawValue
    let result = await loop.blocking {
      var result = body(fd)
      while result == -Errno.interrupted.rawValue { result = body(fd) }
      return result
    }
    guard result < 0 else { return }
    throw IOFailure(operation, name, sectors, errno: Errno(rawValue: -result))
  }
}
