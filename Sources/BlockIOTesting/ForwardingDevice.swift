public import BlockIO

/// A device of a test that passes everything on to another one, but for what it does in its own way.
public protocol ForwardingDevice: BlockDevice {
  /// The other one.
  var underlying: any BlockDevice { get }
}

extension ForwardingDevice {
  public var name: String { underlying.name }
  public var identity: DeviceIdentity { underlying.identity }
  public var placements: [DevicePlacement] { underlying.placements }
  public var sectorCount: Sector { underlying.sectorCount }
  public var byteCount: UInt64 { underlying.byteCount }
  public var limits: DeviceLimits { underlying.limits }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await underlying.read(sectors, into: buffer)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await underlying.write(sectors, from: buffer, options: options)
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await underlying.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await underlying.discard(sectors)
  }

  public func flush() async throws(IOFailure) { try await underlying.flush() }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try await underlying.blockStatus(sectors, limit: limit)
  }

  public func grow(to sectorCount: Sector) async throws(IOFailure) {
    try await underlying.grow(to: sectorCount)
  }

  public func refreshSize() async throws(IOFailure) { try await underlying.refreshSize() }
}

/// A disk that takes writes that are to be durable for ordinary ones.
public final class ForgetfulDisk: ForwardingDevice {
  public let underlying: any BlockDevice

  /// A disk that forgets what `underlying` would keep.
  public init(_ underlying: any BlockDevice) { self.underlying = underlying }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await underlying.write(sectors, from: buffer, options: [])
  }
}
