import BlockIO
import SystemPackage

/// A device as it is, but read-only: what a read-only mapped device sees of one that others write.
final class ReadOnlyDevice: BlockDevice {
  private let below: any BlockDevice

  init(_ below: any BlockDevice) { self.below = below }

  var name: String { below.name }
  var identity: DeviceIdentity { below.identity }
  var placements: [DevicePlacement] { below.placements }
  var sectorCount: Sector { below.sectorCount }
  var byteCount: UInt64 { below.byteCount }

  var limits: DeviceLimits {
    var limits = below.limits
    limits.isReadOnly = true
    return limits
  }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await below.read(sectors, into: buffer)
  }

  func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool {
    try below.readNow(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    throw IOFailure(.write, name, sectors, errno: .readOnlyFileSystem)
  }

  func flush() async throws(IOFailure) { try await below.flush() }
  func refreshSize() async throws(IOFailure) { try await below.refreshSize() }

  func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try await below.blockStatus(sectors, limit: limit)
  }
}
