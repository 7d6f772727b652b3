import BlockIO
import Synchronization

/// Memory behind a fixed latency per request. With any number of them at once only what waits for
/// what counts, not what a disk does one after the other; with one at a time it is such a disk.
final class SlowMemory: BlockDevice {
  /// Of reads and writes.
  static let latency = Duration.microseconds(200)
  /// Of flushes, and of making a write durable.
  static let flushLatency = Duration.microseconds(500)

  private let memory: MemoryDevice
  private let loop: IOLoop
  private let oneAtATime: Bool
  /// When what has been asked for will be done.
  private let busyUntil = Mutex(LoopInstant(nanoseconds: 0))

  init(_ name: String, _ sectorCount: Sector, oneAtATime: Bool, on loop: IOLoop) {
    self.oneAtATime = oneAtATime
    memory = MemoryDevice(name: name, sectorCount: sectorCount)
    self.loop = loop
  }

  var name: String { memory.name }
  var sectorCount: Sector { memory.sectorCount }
  var limits: DeviceLimits { memory.limits }

  private func pause(_ time: Duration) async {
    guard loop.isCurrent else {
      return await withTaskExecutorPreference(loop) { await pause(time) }
    }
    guard oneAtATime else { return await loop.sleep(for: time) }
    let now = loop.now
    let end = busyUntil.withLock { busyUntil in
      busyUntil = max(busyUntil, now).advanced(by: time)
      return busyUntil
    }
    await loop.sleep(for: now.duration(to: end))
  }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    await pause(Self.latency)
    try await memory.read(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    await pause(Self.latency)
    try await memory.write(sectors, from: buffer, options: options)
    if options.contains(.durable) { await pause(Self.flushLatency) }
  }

  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    await pause(Self.latency)
    try await memory.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  func flush() async throws(IOFailure) { await pause(Self.flushLatency) }
}
