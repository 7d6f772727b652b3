import BlockIO
import BlockIOTesting

/// Holds writes until they are released.
final class HeldDevice: BlockDevice {
  let memory: MemoryDevice
  private let hasArrived = AsyncStream.makeStream(of: Void.self)
  private let state = Locked<(isReleased: Bool, held: [CheckedContinuation<Void, Never>])>(
    (false, []))

  init(sectorCount: Sector) { memory = MemoryDevice(sectorCount: sectorCount) }

  var name: String { "held" }
  var sectorCount: Sector { memory.sectorCount }
  var limits: DeviceLimits { memory.limits }

  /// Waits until a write is held.
  func waitForWrite() async { for await _ in hasArrived.stream { return } }

  /// Lets go of those that are held, and of all to come.
  func releaseAll() {
    let held = state.withLock { state in
      state.isReleased = true
      defer { state.held = [] }
      return state.held
    }
    for continuation in held { continuation.resume() }
  }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await memory.read(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    await withCheckedContinuation { continuation in
      let isReleased = state.withLock { state in
        if !state.isReleased { state.held.append(continuation) }
        return state.isReleased
      }
      if isReleased { continuation.resume() }
      hasArrived.continuation.yield()
    }
    try await memory.write(sectors, from: buffer, options: options)
  }

  func flush() async throws(IOFailure) {}
}
