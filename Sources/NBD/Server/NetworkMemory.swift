import BlockIO
import NIOCore

// The network's buffers as the memory of devices, with no copy in between: with `DirectSocket` the
// only unsafe code of this module. NIO sends and receives nothing but its own buffers, and says nowhere but
// here where their bytes are.

/// The content of a large request: a device reads into it and the network sends from it, or the
/// network receives into it and a device writes from it.
struct RequestMemory {
  /// All of it as the network's. Not to be used before it has been filled.
  let content: ByteBuffer
  /// All of it as the device's, to the end of the last sector: begins at a multiple of 4096, so that
  /// any device can. Only while this, or a copy, lives.
  let buffer: IOBuffer

  /// Memory for that many bytes.
  init(byteCount: Int) {
    let alignment = 4096
    let sectors = Sector(holding: UInt64(byteCount))
    let roundedCount = Int(sectors.bytes)
    var content = ByteBufferAllocator().buffer(capacity: roundedCount + alignment)
    // The address stays what it is: the storage is moved only when a buffer grows or is written to,
    // and neither happens to a constant; a copy that is written to gets storage of its own.
    let base = content.withVeryUnsafeMutableBytes { UnsafeMutableRawBufferPointer($0).baseAddress }
    guard let base else { preconditionFailure("a buffer of some capacity without memory") }
    let start = (alignment - Int(bitPattern: base) % alignment) % alignment
    // The bytes counted as written here are written by device or network before anybody reads them.
    content.moveWriterIndex(to: start + byteCount)
    content.moveReaderIndex(to: start)
    buffer = .foreign(base + start, byteCount: roundedCount)
    self.content = content
  }
}

extension ByteBuffer {
  /// Has `fill` put whole sectors behind what has been written, in a call that has used the memory
  /// when it returns.
  ///
  /// - Parameter byteCount: a multiple of 512.
  /// - Returns: what `fill` does: whether the bytes are there now.
  mutating func append(sectorBytes byteCount: Int, _ fill: (IOBuffer) -> Bool) -> Bool {
    var isFilled = false
    writeWithUnsafeMutableBytes(minimumWritableBytes: byteCount) { memory in
      // The memory is this buffer's alone during the call, and as long as was asked for.
      guard let base = memory.baseAddress else { return 0 }
      isFilled = fill(.foreign(base, byteCount: byteCount))
      return isFilled ? byteCount : 0
    }
    return isFilled
  }

  /// Calls `body` with what can be read, whole sectors, in a call that has used the memory when it
  /// returns, and only reads it.
  func withSectors(_ body: (IOBuffer) -> Bool) -> Bool {
    withUnsafeReadableBytes { memory in
      // There as long as the call; that nobody writes to it is the condition above.
      guard let base = memory.baseAddress else { return false }
      return body(.foreign(UnsafeMutableRawPointer(mutating: base), byteCount: memory.count))
    }
  }
}
