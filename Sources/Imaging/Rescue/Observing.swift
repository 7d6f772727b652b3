import BlockIO
import Kcopyd
import SystemPackage

/// Passes on what is seen of a part of a copy, as of the whole.
struct PartObserver: CopyObserver {
  let whole: any CopyObserver
  /// Where the part starts.
  let start: Sector

  func observe(_ segment: Range<Sector>, _ data: IOBuffer?) async {
    await whole.observe(segment.shifted(by: start), data)
  }
}

/// A destination for what is read only to be observed.
final class Sink: BlockDevice {
  let name = "nowhere"
  let sectorCount: Sector
  let limits = DeviceLimits()

  init(sectorCount: Sector) { self.sectorCount = sectorCount }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    throw IOFailure(.read, name, sectors, errno: .notSupported)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {}

  func flush() async throws(IOFailure) {}
}
