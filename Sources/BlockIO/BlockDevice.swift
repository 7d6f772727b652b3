import SystemPackage

/// What a device can do and how it likes its requests.
public struct DeviceLimits: Hashable, Sendable {
  /// The smallest unit the device addresses, in bytes: 512 or 4096 as a rule. Requests that don't
  /// respect it work on every device, at a cost.
  public var logicalBlock: Int = 512
  /// The unit the device writes without reading first, in bytes.
  public var physicalBlock: Int = 512
  /// The largest single transfer in bytes; larger ones are cut by the device itself.
  public var maximumTransfer: Int?
  /// The transfer size in bytes that suits the device best.
  public var optimalTransfer: Int = 1 << 20
  /// Whether writes are refused.
  public var isReadOnly = false
  /// Whether a write can be made durable by itself (force unit access).
  public var supportsFUA = false
  /// Whether zeros can be written without sending them.
  public var supportsWriteZeroes = false
  /// Whether ranges can be given up.
  public var supportsDiscard = false
  /// Whether the device wants each zone written in ascending order.
  public var isZoned = false

  /// The limits of a device that has no special ones.
  public init() {}
}

/// What a device is, whatever name it was opened by: two devices with the same identity are one.
public enum DeviceIdentity: Hashable, Sendable {
  /// A regular file: the device it lies on and its inode there.
  case file(device: UInt64, inode: UInt64)
  /// A block special: its device number.
  case blockSpecial(device: UInt64)
  /// An export of a server: where the server is, and the name of the export there.
  case network(server: String, export: String)
  /// A device that exists in this process only.
  case object(ObjectIdentifier)
}

/// A piece of a device with one answer to "is there data?".
public struct BlockExtent: Hashable, Sendable {
  /// What is known of an extent.
  public enum Status: String, Sendable {
    /// Data are allocated; they may happen to be zeros.
    case data
    /// Reads give zeros.
    case zero
    /// The device can't say.
    case unknown
  }

  /// Where.
  public let sectors: Range<Sector>
  /// What is known.
  public let status: Status

  /// An extent.
  public init(_ sectors: Range<Sector>, _ status: Status) {
    self.sectors = sectors
    self.status = status
  }
}

/// How a write is to be done.
public struct WriteOptions: OptionSet, Sendable {
  /// The bits.
  public let rawValue: UInt8
  /// Options of these bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// The data are durable when the write has ended (force unit access).
  public static let durable = WriteOptions(rawValue: 1 << 0)
}

/// An array of sectors that is read and written asynchronously: a file, a disk, a snapshot …
///
/// Its functions run where they are called – on an ``IOLoop`` – and any number may be under way at
/// once. Requests that overlap and aren't ordered by the caller may take effect in any order. A
/// completed write is seen by every read that starts after it; it is durable only after a
/// ``flush()`` that starts after it, or with ``WriteOptions/durable``.
public protocol BlockDevice: AnyObject, Sendable {
  /// The name for people: as a rule what the user opened it by.
  var name: String { get }
  /// What the device is, whatever its name.
  var identity: DeviceIdentity { get }
  /// Where else its bytes are: what it is a part of, and what that is a part of.
  var placements: [DevicePlacement] { get }
  /// The size in sectors, a begun last sector counted.
  var sectorCount: Sector { get }
  /// The size in bytes. More than `sectorCount` − 1 sectors; bytes of the last sector that lie
  /// behind it read as zeros and aren't written.
  var byteCount: UInt64 { get }
  /// What the device can do.
  var limits: DeviceLimits { get }

  /// Reads `sectors` into `buffer`, which has their length.
  ///
  /// - Throws: the first failure with the sectors from which on the buffer is undefined; `EIO`
  ///   for sectors behind the end.
  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure)

  /// Writes `buffer` to `sectors`, which have its length.
  ///
  /// - Throws: the failure with the sectors that may not be written.
  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure)

  /// Reads within this very call, if that needs no waiting: for callers without a task to wait in, on
  /// whatever thread.
  ///
  /// - Returns: false if it would, or the device can't tell. The buffer is undefined then: make the
  ///   request with ``read(_:into:)``.
  /// - Throws: as that does.
  func readNow(_ sectors: Range<Sector>, into buffer: IOBuffer) throws(IOFailure) -> Bool

  /// Writes `buffer` to `sectors` within this very call, if that needs no waiting; on whatever thread.
  ///
  /// - Returns: false if it would, or the device can't tell. Some of the sectors may have been written
  ///   then: make the request with ``write(_:from:options:)``.
  /// - Throws: as that does.
  func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool

  /// Makes `sectors` read as zeros.
  ///
  /// - Parameter mayUnmap: whether the space may be given back; otherwise it stays allocated
  ///   where the device can do that.
  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure)

  /// Gives `sectors` up; what they hold then is the device's choice.
  func discard(_ sectors: Range<Sector>) async throws(IOFailure)

  /// Makes every write that has completed before durable.
  func flush() async throws(IOFailure)

  /// Which parts of `sectors` hold data, in ascending order without gaps, at most `limit`
  /// extents: what is left starts where the last one ends.
  func blockStatus(_ sectors: Range<Sector>, limit: Int) async throws(IOFailure) -> [BlockExtent]

  /// Makes the device `sectorCount` sectors long, if it is shorter; what is new reads as zeros.
  func grow(to sectorCount: Sector) async throws(IOFailure)

  /// Looks how large the device is now: someone else may have made it larger.
  func refreshSize() async throws(IOFailure)

  /// The file behind the device when a pool thread can copy from or to it by plain calls that
  /// end in the page cache; nil when requests are better made one by one.
  var pageCachedFile: PageCachedFile? { get }
}

extension BlockDevice {
  public var byteCount: UInt64 { sectorCount.bytes }
  public var identity: DeviceIdentity { .object(ObjectIdentifier(self)) }
  public var placements: [DevicePlacement] { [] }
  public var pageCachedFile: PageCachedFile? { nil }

  /// The size in sectors, a begun last sector not counted: what can be written and read back.
  public var wholeSectorCount: Sector { Sector(byteCount / Sector.byteCount) }

  /// Writes without options.
  public func write(_ sectors: Range<Sector>, from buffer: IOBuffer) async throws(IOFailure) {
    try await write(sectors, from: buffer, options: [])
  }

  /// Never, unless the device has its own way.
  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool { false }

  /// Never, unless the device has its own way.
  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool { false }

  /// Refused, unless the device has its own way.
  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    throw IOFailure(.discard, name, sectors, errno: .notSupported)
  }

  /// Refused, unless the device has its own way.
  public func grow(to sectorCount: Sector) async throws(IOFailure) {
    if sectorCount > self.sectorCount { throw IOFailure(.grow, name, errno: .notSupported) }
  }

  /// Nothing to look at, unless the device has its own way.
  public func refreshSize() async throws(IOFailure) {}

  /// Writes zeros from memory, unless the device has its own way.
  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await writeZeroesFromMemory(sectors)
  }

  /// Writes zeros like any other data.
  package func writeZeroesFromMemory(_ sectors: Range<Sector>) async throws(IOFailure) {
    var rest = sectors
    while !rest.isEmpty {
      let count = min(rest.length, IOBuffer.zeroes.sectorCount)
      let piece = rest.lowerBound..<rest.lowerBound + count
      try await write(piece, from: IOBuffer.zeroes.slice(0, count))
      rest = piece.upperBound..<rest.upperBound
    }
  }

  /// Knows nothing, unless the device has its own way.
  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try check(sectors, for: .blockStatus)
    return sectors.isEmpty ? [] : [BlockExtent(sectors, .unknown)]
  }

  /// The failure of a request that isn't wholly on the device; with `EIO`, as the kernel's block
  /// layer has it.
  public func check(
    _ sectors: Range<Sector>, for operation: IOFailure.Operation
  ) throws(IOFailure) {
    if sectors.upperBound > sectorCount {
      throw .beyondEnd(operation, name, sectors, sectorCount: sectorCount)
    }
  }
}

/// A range of sectors of a device: one end of a copy. `struct io_region` of the kernel.
public struct IORegion: Sendable, CustomStringConvertible {
  /// The device.
  public var device: any BlockDevice
  /// Its first sector.
  public var sector: Sector
  /// How many sectors; a region of none is ignored.
  public var count: Sector

  /// `count` sectors of `device` from `sector` on.
  public init(_ device: any BlockDevice, sector: Sector = .zero, count: Sector) {
    self.device = device
    self.sector = sector
    self.count = count
  }

  /// The sectors.
  public var sectors: Range<Sector> { sector..<sector + count }

  /// Device and sectors, for people.
  public var description: String { "'\(device.name)' \(sectors.label)" }
}
