import CBlockIO
import Synchronization
import SystemPackage

/// A file whose reads and writes end in the page cache: plain blocking calls, from any thread.
///
/// Short transfers are continued and interrupted ones repeated; the bytes of the last sector that
/// lie behind the end of the file read as zeros and aren't written.
public final class PageCachedFile: Sendable {
  let file: FileDescriptor
  let name: String
  /// The size in bytes: that of the moment of opening, until someone looks again.
  var byteCount: UInt64 { size.load(ordering: .relaxed) }
  let identity: DeviceIdentity
  private let size: Atomic<UInt64>
  /// Whether the file lives in memory, so that a transfer never waits for a disk.
  let isInMemory: Bool
  /// Whether the kernel can say that a transfer would wait: ext4 can for reads only.
  private let canAskToRead = Atomic<Bool>(true)
  private let canAskToWrite = Atomic<Bool>(true)

  /// Takes over the open file and closes it in the end.
  init(
    file: FileDescriptor, name: String, byteCount: UInt64, identity: DeviceIdentity,
    isInMemory: Bool
  ) {
    self.file = file
    self.name = name
    size = Atomic(byteCount)
    self.identity = identity
    self.isInMemory = isInMemory
  }

  // Whoever transfers holds this object. Errors of closing say nothing that a flush didn't.
  deinit { try? file.close() }

  /// The file has become longer. A shorter one is found out by reading.
  func noteSize(_ byteCount: UInt64) {
    _ = size.max(byteCount, ordering: .relaxed)
  }

  /// The result of a transfer that was only to be done if it doesn't wait.
  enum Attempt { case done, wouldWait, unsupported }

  /// The bytes of `sectors` that lie in the file.
  private func bytes(of sectors: Range<Sector>) -> Range<UInt64> {
    let end = min(sectors.upperBound.bytes, byteCount)
    return min(sectors.lowerBound.bytes, end)..<end
  }

  private func check(
    _ sectors: Range<Sector>, for operation: IOFailure.Operation
  ) throws(IOFailure) {
    let sectorCount = Sector(holding: byteCount)
    if sectors.upperBound > sectorCount {
      throw .beyondEnd(operation, name, sectors, sectorCount: sectorCount)
    }
  }

  /// Reads, waiting for the disk where needed.
  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) throws(IOFailure) {
    try insist(try read(sectors, into: buffer, with: blockio_pread), .read, sectors)
  }

  /// Writes, waiting where needed; durable when it returns if `options` say so.
  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) {
    let call = options.contains(.durable) ? blockio_pwrite_durable : blockio_pwrite
    try insist(try write(sectors, from: buffer, with: call), .write, sectors)
  }

  /// A blocking call that answers as if it had been asked not to wait has failed.
  private func insist(
    _ attempt: Attempt, _ operation: IOFailure.Operation, _ sectors: Range<Sector>
  ) throws(IOFailure) {
    switch attempt {
    case .done: return
    case .wouldWait:
      throw IOFailure(operation, name, sectors, errno: .resourceTemporarilyUnavailable)
    case .unsupported: throw IOFailure(operation, name, sectors, errno: .notSupported)
    }
  }

  /// Reads if that needs no waiting.
  func readOnTheSpot(_ sectors: Range<Sector>, into buffer: IOBuffer) throws(IOFailure) -> Attempt {
    if isInMemory { return try read(sectors, into: buffer, with: blockio_pread) }
    guard canAskToRead.load(ordering: .relaxed) else { return .unsupported }
    let attempt = try read(sectors, into: buffer, with: blockio_pread_nowait)
    if attempt == .unsupported { canAskToRead.store(false, ordering: .relaxed) }
    return attempt
  }

  /// Writes if that needs no waiting – or, if the caller `mayWait`, in any case: within the page
  /// cache a write waits only when there are too many dirty pages.
  func writeOnTheSpot(
    _ sectors: Range<Sector>, from buffer: IOBuffer, mayWait: Bool = false
  ) throws(IOFailure) -> Attempt {
    if isInMemory || mayWait { return try write(sectors, from: buffer, with: blockio_pwrite) }
    guard canAskToWrite.load(ordering: .relaxed) else { return .unsupported }
    let attempt = try write(sectors, from: buffer, with: blockio_pwrite_nowait)
    if attempt == .unsupported { canAskToWrite.store(false, ordering: .relaxed) }
    return attempt
  }

  /// Whether a small write may turn out not to need waiting.
  var mayWriteOnTheSpot: Bool { isInMemory || canAskToWrite.load(ordering: .relaxed) }

  private func read(
    _ sectors: Range<Sector>, into buffer: IOBuffer,
    with call: (Int32, UnsafeMutableRawPointer, Int, UInt64) -> Int
  ) throws(IOFailure) -> Attempt {
    precondition(buffer.sectorCount == sectors.length)
    try check(sectors, for: .read)
    let wanted = bytes(of: sectors)
    // All pointers below stay within `buffer`, whose owner this call's caller holds.
    var done = 0
    while done < wanted.count {
      let offset = wanted.lowerBound + UInt64(done)
      let count = call(file.rawValue, buffer.base + done, wanted.count - done, offset)
      switch count {
      case 1...: done += count
      case 0: throw endedEarly(at: done, of: sectors)
      case -Int(Errno.interrupted.rawValue): continue
      case -Int(Errno.resourceTemporarilyUnavailable.rawValue): return .wouldWait
      case -Int(Errno.notSupportedOnSocket.rawValue): return .unsupported
      default: throw failure(.read, count, at: done, of: sectors)
      }
    }
    buffer.clearTail(from: done)
    return .done
  }

  private func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer,
    with call: (Int32, UnsafeRawPointer, Int, UInt64) -> Int
  ) throws(IOFailure) -> Attempt {
    precondition(buffer.sectorCount == sectors.length)
    try check(sectors, for: .write)
    let wanted = bytes(of: sectors)
    // All pointers below stay within `buffer`, whose owner this call's caller holds.
    var done = 0
    while done < wanted.count {
      let offset = wanted.lowerBound + UInt64(done)
      let count = call(file.rawValue, buffer.base + done, wanted.count - done, offset)
      switch count {
      case 1...: done += count
      case -Int(Errno.interrupted.rawValue): continue
      case -Int(Errno.resourceTemporarilyUnavailable.rawValue): return .wouldWait
      case -Int(Errno.notSupportedOnSocket.rawValue): return .unsupported
      // A file system that takes nothing and gives no reason: don't try for ever.
      case 0: throw failure(.write, -Int(Errno.noSpace.rawValue), at: done, of: sectors)
      default: throw failure(.write, count, at: done, of: sectors)
      }
    }
    return .done
  }

  /// The failure of a call: from the sector that wasn't transferred as a whole.
  func failure(
    _ operation: IOFailure.Operation, _ result: Int, at done: Int, of sectors: Range<Sector>
  ) -> IOFailure {
    let first = sectors.lowerBound + Sector(UInt64(done) / Sector.byteCount)
    return IOFailure(
      operation, name, first..<sectors.upperBound, errno: Errno(rawValue: Int32(-result)))
  }

  /// The failure of a read that met the end of the file before the size it had when opened.
  func endedEarly(at done: Int, of sectors: Range<Sector>) -> IOFailure {
    let first = sectors.lowerBound + Sector(UInt64(done) / Sector.byteCount)
    return IOFailure(
      .read, name, first..<sectors.upperBound, errno: .ioError,
      detail: "the file ends here: it has shrunk since it was opened")
  }
}

extension IOBuffer {
  /// Zeros from that byte on.
  func clearTail(from offset: Int) {
    guard offset < byteCount else { return }
    UnsafeMutableRawBufferPointer(start: base + offset, count: byteCount - offset)
      .initializeMemory(as: UInt8.self, repeating: 0)
  }
}
