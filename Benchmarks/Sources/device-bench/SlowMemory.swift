import BlockIO

/// Memory behind a fixed latency per request, any number of them at once: on it only what waits for
/// what counts, not what a disk does one after the other.
final class SlowMemory: BlockDevice {
  /// Of reads and writes.
  static let latency = Duration.microseconds(200)
  /// Of flushes, and of making a write durable.
  static let flushLatency = Duration.microseconds(500)

  private let memory: MemoryDevice
  private let loop: IOLoop

  init(_ name: String, _ sectorCount: Sector, on loop: IOLoop) {
    memory = MemoryDevice(name: name, sectorCount: sectorCount)
    self.loop = loop
  }

  var name: String { memory.name }
  var sectorCount: Sector { memory.sectorCount }
  var limits: DeviceLimits { memory.limits }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    await loop.sleep(for: Self.latency)
    try await memory.read(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    await loop.sleep(for: Self.latency)
    try await memory.write(sectors, from: buffer, options: options)
    if options.contains(.durable) { await loop.sleep(for: Self.flushLatency) }
  }

  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    await loop.sleep(for: Self.latency)
    try await memory.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  func flush() async throws(IOFailure) { await loop.sleep(for: Self.flushLatency) }
}
