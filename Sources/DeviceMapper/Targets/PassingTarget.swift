public import BlockIO

/// A target whose sectors are those of a device of its own, which does all that is asked of it.
public protocol PassingTarget: Target {
  associatedtype Device: BlockDevice
  /// The device.
  var device: Device { get }
}

extension PassingTarget {
  public var limits: DeviceLimits? { device.limits }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await device.read(sectors, into: buffer)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await device.write(sectors, from: buffer, options: options)
  }

  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool {
    try device.readNow(sectors, into: buffer)
  }

  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool {
    try device.writeNow(sectors, from: buffer, options: options)
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await device.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await device.discard(sectors)
  }

  public func flush() async throws(IOFailure) { try await device.flush() }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try await device.blockStatus(sectors, limit: limit)
  }
}
