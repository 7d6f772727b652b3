import BlockIO

/// Where a snapshot keeps its chunks and, if persistent, the list of them.
///
/// Used by one task at a time for what writes; allocation in between is fine.
protocol ExceptionStore: AnyObject {
  var device: any BlockDevice { get }
  var chunkSize: ChunkSize { get }

  /// Sectors in use, copies under way included.
  var allocated: Sector { get }
  /// Sectors of header and areas.
  var metadata: Sector { get }

  /// Takes the next chunk; nil when the device, as large as it is now, has no room for it.
  func allocate() -> CowChunk?
  /// How large the device must be for the next ``allocate()`` to succeed.
  var sizeForNext: Sector { get }

  /// How many exceptions one ``commit(_:)`` can take.
  var commitLimit: Int { get }
  /// Makes the data of all of them durable, then the exceptions. In the order of allocation.
  func commit(_ batch: [Exception]) async throws(IOFailure)

  /// Marks the store invalid, for good and durably.
  func invalidate() async throws(IOFailure)
}

/// A store in memory: of the COW device only data chunks are used, from chunk 0 on.
final class TransientStore: ExceptionStore {
  let device: any BlockDevice
  let chunkSize: ChunkSize
  private var nextFree: CowChunk = 0

  init(device: any BlockDevice, chunkSize: ChunkSize) {
    self.device = device
    self.chunkSize = chunkSize
  }

  var allocated: Sector { chunkSize.start(of: nextFree) }
  var metadata: Sector { .zero }
  var sizeForNext: Sector { chunkSize.sectors(of: nextFree).upperBound }

  func allocate() -> CowChunk? {
    guard sizeForNext <= device.wholeSectorCount else { return nil }
    defer { nextFree = nextFree.advanced(by: 1) }
    return nextFree
  }

  var commitLimit: Int { .max }
  func commit(_ batch: [Exception]) async throws(IOFailure) {}
  func invalidate() async throws(IOFailure) {}
}
