import BlockIO
import Synchronization

/// A file device that is closed when C says so, rather than with its last reference.
///
/// The engine lets go of a job's devices some time after the notification. Closing must not wait
/// for that: who closes a disk after the last notification may open it again at once, exclusively.
final class OpenDevice: BlockDevice {
  let name: String
  let identity: DeviceIdentity
  let placements: [DevicePlacement]
  let sectorCount: Sector
  let byteCount: UInt64
  let limits: DeviceLimits

  private let state: Mutex<State>

  private struct State {
    /// The file; nil when it has been closed.
    var file: FileDevice?
    /// Jobs that haven't been notified.
    var jobs = 0
    var isClosing = false

    /// Gives the file up when it is to be closed and no job needs it. A job that still does must
    /// be let finish, though C has promised there is none: the number of a closed descriptor may
    /// be that of another file by the time it is written to.
    mutating func takeUnused() -> FileDevice? {
      guard isClosing, jobs == 0 else { return nil }
      defer { file = nil }
      return file
    }
  }

  init(_ file: FileDevice) {
    name = file.name
    identity = file.identity
    placements = file.placements
    sectorCount = file.sectorCount
    byteCount = file.byteCount
    limits = file.limits
    state = Mutex(State(file: file))
  }

  // MARK: Closing

  func beginJob() { state.withLock { $0.jobs += 1 } }

  func endJob() {
    let unused = state.withLock { state in
      state.jobs -= 1
      return state.takeUnused()
    }
    // Closed here, outside of the lock.
    withExtendedLifetime(unused) {}
  }

  func close() {
    let unused = state.withLock { state in
      state.isClosing = true
      return state.takeUnused()
    }
    withExtendedLifetime(unused) {}
  }

  private var file: FileDevice {
    guard let file = state.withLock({ $0.file }) else {
      preconditionFailure("'\(name)' was used after it had been closed")
    }
    return file
  }

  // MARK: Requests

  var pageCachedFile: PageCachedFile? { state.withLock { $0.file?.pageCachedFile } }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await file.read(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await file.write(sectors, from: buffer, options: options)
  }

  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await file.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await file.discard(sectors)
  }

  func flush() async throws(IOFailure) { try await file.flush() }

  func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try await file.blockStatus(sectors, limit: limit)
  }
}
