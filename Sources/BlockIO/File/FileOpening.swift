import CBlockIO
import SystemPackage

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Whether transfers bypass the page cache.
public enum DirectChoice: String, Sendable, CaseIterable {
  /// Where it is the better way: for disks, and for reading large files that aren't in the page
  /// cache already.
  case auto
  /// Where it is possible.
  case whenPossible = "when-possible"
  /// Always; refused where the file system can't do it.
  case on
  /// Never.
  case off
}

/// An advisory lock (`flock`) that keeps programs which take one from each other's files.
public enum FileLock: Sendable {
  /// None.
  case none
  /// Others may hold a shared lock, too: for who only reads.
  case shared
  /// Nobody else.
  case exclusive
}

extension FileDevice {
  /// How a file is opened.
  public struct Options: Sendable {
    /// Whether it will be written.
    public var isWritable: Bool
    /// Whether to bypass the page cache.
    public var direct: DirectChoice
    /// Whether a block special must be nobody else's: not mounted, not held.
    public var isExclusive: Bool
    /// The advisory lock to take for as long as the device is open.
    public var lock: FileLock

    /// Options.
    public init(
      isWritable: Bool, direct: DirectChoice = .auto, isExclusive: Bool = true,
      lock: FileLock = .none
    ) {
      self.isWritable = isWritable
      self.direct = direct
      self.isExclusive = isExclusive
      self.lock = lock
    }
  }

  /// Opens a regular file or a block special that exists.
  ///
  /// - Throws: when it is missing, not permitted, neither of the two, held by someone else while
  ///   `isExclusive`, read-only while `isWritable`, or `direct` is insisted on and not possible.
  ///   Nothing has been changed then.
  public static func open(
    _ path: String, _ options: Options, on loop: IOLoop
  ) throws(IOFailure) -> FileDevice {
    try FileDevice(opened: OpenedFile(path, options), name: path, loop: loop)
  }

  /// What the device of a path is, without opening it; nil: nothing that could be opened.
  public static func identity(of path: String) -> DeviceIdentity? {
    guard let kind = FileKind(path: path) else { return nil }
    return switch kind.type {
    case .regular: .file(device: kind.device, inode: kind.inode)
    case .blockSpecial: .blockSpecial(device: kind.specialDevice)
    case .directory, .other: nil
    }
  }

  /// Makes a new regular file that reads as `byteCount` zeros, and opens it for writing.
  ///
  /// - Throws: `EEXIST` when there is something of that name; whatever making it refuses. There
  ///   is no such file then.
  public static func create(
    _ path: String, byteCount: UInt64, direct: DirectChoice = .auto, on loop: IOLoop
  ) throws(IOFailure) -> FileDevice {
    let file = Result { () throws(Errno) in
      try withErrno {
        try FileDescriptor.open(
          FilePath(path), .readWrite, options: [.create, .exclusiveCreate, .closeOnExec],
          permissions: [.ownerReadWrite, .groupReadWrite, .otherReadWrite])
      }
    }
    switch file {
    case .failure(let errno): throw IOFailure(.open, path, errno: errno)
    case .success(let file):
      do throws(Errno) {
        defer { try? file.close() }
        guard let size = Int64(exactly: byteCount) else { throw .fileTooLarge }
        try withErrno { try file.resize(to: size) }
      } catch {
        unlink(path)
        throw IOFailure(.open, path, errno: error, detail: "cannot make it \(byteCount) bytes long")
      }
    }
    do throws(IOFailure) {
      return try open(path, Options(isWritable: true, direct: direct), on: loop)
    } catch {
      unlink(path)
      throw error
    }
  }
}

/// What opening a file found out.
struct OpenedFile {
  let cached: FileDescriptor
  /// The same file once more, bypassing the page cache.
  var direct: FileDescriptor?
  let identity: DeviceIdentity
  let placements: [DevicePlacement]
  let byteCount: UInt64
  let isBlockSpecial: Bool
  var limits = DeviceLimits()
  var memoryAlignment = 512
  let isInMemory: Bool
  var directReason = ""

  init(_ path: String, _ options: FileDevice.Options) throws(IOFailure) {
    // Asked before opening, because opening a pipe or a tape already does something.
    guard let kind = FileKind(path: path) else {
      throw IOFailure(.open, path, errno: Errno(rawValue: errno))
    }
    try Self.refuse(kind, path)
    isBlockSpecial = kind.isBlockSpecial
    // Non-blocking, should it have become a pipe meanwhile.
    let nonBlocking = FileDescriptor.OpenOptions.nonBlocking.rawValue
    cached = try Self.open(
      path, options, extraFlags: nonBlocking, exclusive: kind.isBlockSpecial)
    do throws(IOFailure) {
      guard let opened = FileKind(file: cached) else {
        throw IOFailure(.open, path, errno: Errno(rawValue: errno))
      }
      let blocking = blockio_set_blocking(cached.rawValue)
      guard blocking >= 0 else { throw IOFailure(.open, path, errno: Errno(rawValue: -blocking)) }
      guard opened == kind else {
        throw IOFailure(.open, path, errno: .staleNFSFileHandle, detail: "replaced while opening")
      }
      try Self.lock(cached, options.lock, path)
      (byteCount, limits) = try Self.measure(opened, cached, path)
      (identity, placements) = Self.place(opened, cached, byteCount)
      if options.isWritable, limits.isReadOnly {
        throw IOFailure(.open, path, errno: .readOnlyFileSystem, detail: "the device is read-only")
      }
      // A block special's own file system is that of its name.
      isInMemory = !isBlockSpecial && blockio_is_memory_file_system(cached.rawValue)
      try openDirect(path, options, isInMemory: isInMemory)
    } catch {
      try? cached.close()
      throw error
    }
  }

  private static func refuse(_ kind: FileKind, _ path: String) throws(IOFailure) {
    switch kind.type {
    case .regular, .blockSpecial: return
    case .directory: throw IOFailure(.open, path, errno: .isDirectory)
    case .other:
      throw IOFailure(
        .open, path, errno: .invalidArgument, detail: "neither a regular file nor a block device")
    }
  }

  private static func open(
    _ path: String, _ options: FileDevice.Options, extraFlags: Int32, exclusive: Bool
  ) throws(IOFailure) -> FileDescriptor {
    var flags = FileDescriptor.OpenOptions([.closeOnExec])
    flags.insert(.init(rawValue: extraFlags))
    if exclusive && options.isExclusive { flags.insert(.exclusiveCreate) }
    do throws(Errno) {
      return try withErrno {
        try FileDescriptor.open(
          FilePath(path), options.isWritable ? .readWrite : .readOnly, options: flags)
      }
    } catch {
      guard error == .resourceBusy else { throw IOFailure(.open, path, errno: error) }
      throw IOFailure(
        .open, path, errno: error, detail: "in use: mounted, or held by another program")
    }
  }

  private static func lock(
    _ file: FileDescriptor, _ lock: FileLock, _ path: String
  ) throws(IOFailure) {
    guard lock != .none else { return }
    let result = blockio_lock(file.rawValue, lock == .exclusive)
    guard result < 0 else { return }
    let errno = Errno(rawValue: -result)
    throw IOFailure(
      .open, path, errno: errno,
      detail: errno == .wouldBlock ? "in use: locked by another program" : nil)
  }

  private static func place(
    _ kind: FileKind, _ file: FileDescriptor, _ byteCount: UInt64
  ) -> (DeviceIdentity, [DevicePlacement]) {
    guard kind.isBlockSpecial else {
      return (.file(device: kind.device, inode: kind.inode), [])
    }
    let search = PlacementSearch(device: kind.specialDevice, file: file, byteCount: byteCount)
    return (search.identity, search.found)
  }

  private static func measure(
    _ kind: FileKind, _ file: FileDescriptor, _ path: String
  ) throws(IOFailure) -> (byteCount: UInt64, limits: DeviceLimits) {
    var limits = DeviceLimits()
    limits.supportsFUA = true
    guard kind.isBlockSpecial else {
      // What files prefer may be megabytes; what fails and is written as a whole is a page.
      limits.physicalBlock = min(PagePool.pageSize, max(512, kind.preferredBlock))
      // Whether the file system can do it shows only when it is tried, which changes the file.
      limits.supportsWriteZeroes = true
      limits.supportsDiscard = true
      return (kind.byteCount, limits)
    }
    var byteCount: UInt64 = 0
    var logical: UInt32 = 0
    var physical: UInt32 = 0
    var optimal: UInt32 = 0
    let result = blockio_block_device_geometry(
      file.rawValue, &byteCount, &logical, &physical, &optimal, &limits.isReadOnly)
    guard result == 0 else { throw IOFailure(.open, path, errno: Errno(rawValue: -result)) }
    limits.logicalBlock = Int(logical)
    limits.physicalBlock = Int(physical)
    if optimal > 0 { limits.optimalTransfer = Int(optimal) }
    let block = SystemBlock(device: kind.specialDevice)
    limits.maximumTransfer = block.queue("max_hw_sectors_kb")
      .flatMap { Int($0) }.map { $0 << 10 }
    limits.supportsWriteZeroes = true  // the kernel writes zeros itself where the device can't
    limits.supportsDiscard = block.queue("discard_max_bytes").map { $0 != "0" } ?? false
    limits.isZoned = block.queue("zoned").map { $0 != "none" } ?? false
    return (byteCount, limits)
  }

  /// From this size on it pays to look whether a file is in the page cache.
  private static let largeFile: UInt64 = 64 << 20

  /// Whether at least half of a sample can be read without waiting. A file system that doesn't
  /// know that question counts as one that caches.
  private var isMostlyCached: Bool {
    let samples: UInt64 = 64
    let found = (0..<samples).count { sample in
      var byte: UInt8 = 0
      let result = blockio_pread_nowait(
        cached.rawValue, &byte, 1, byteCount / samples * sample)
      return result != -Int(Errno.resourceTemporarilyUnavailable.rawValue)
    }
    return found >= Int(samples) / 2
  }

  /// Opens the file once more for `O_DIRECT`, if that is wanted and possible.
  private mutating func openDirect(
    _ path: String, _ options: FileDevice.Options, isInMemory: Bool
  ) throws(IOFailure) {
    let isSoft = options.direct == .auto || options.direct == .whenPossible
    var reason = isSoft ? "O_DIRECT: possible here" : "O_DIRECT, as asked for"
    switch options.direct {
    case .off: return directReason = "page cache, as asked for"
    case _ where isInMemory && isSoft:
      return directReason = "page cache: the file lives in memory"
    case .auto where isBlockSpecial: reason = "O_DIRECT: a disk"
    case .auto where options.isWritable: return directReason = "page cache: a file to be written"
    case .auto:
      guard byteCount >= Self.largeFile else { return directReason = "page cache: a small file" }
      guard !isMostlyCached else { return directReason = "page cache: the file is in it" }
      reason = "O_DIRECT: a large file that isn't in the page cache"
    case .on, .whenPossible: break
    }
    do throws(IOFailure) {
      let file = try Self.open(
        path, options, extraFlags: blockio_open_direct_flag(), exclusive: false)
      var memory: UInt32 = 0
      var offset: UInt32 = 0
      blockio_direct_alignment(file.rawValue, &memory, &offset)
      let isSame = FileKind(file: file) == FileKind(file: cached)
      guard isSame, blockio_set_uncached(file.rawValue) == 0 else {
        try? file.close()
        throw IOFailure(.open, path, errno: .invalidArgument, detail: "O_DIRECT is not possible")
      }
      direct = file
      // A kernel that can't tell wants whole pages at most, and a disk its logical blocks.
      let assumed = isBlockSpecial ? limits.logicalBlock : PagePool.pageSize
      limits.logicalBlock = max(limits.logicalBlock, offset > 0 ? Int(offset) : assumed)
      memoryAlignment = memory > 0 ? Int(memory) : assumed
      directReason = reason
    } catch {
      guard isSoft else {
        throw IOFailure(
          .open, path, errno: error.errno,
          detail: "O_DIRECT is not possible here (\(error.reason)); try --direct off")
      }
      directReason = "page cache: O_DIRECT is not possible here (\(error.reason))"
    }
  }
}
