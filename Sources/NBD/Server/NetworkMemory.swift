import BlockIO
import NIOCore

// The network's buffers as the memory of devices, with no copy in between: the only unsafe code of
// this module's server. NIO sends and receives nothing but its own buffers, and says nowhere but
// here where their bytes are.

/// The content of a large read: a device reads into it, and the network sends from it.
struct AnswerMemory: ~Copyable {
  private var content: ByteBuffer
  /// Where to read to: begins at a multiple of 4096, so that any device can. Only while this lives.
  let buffer: IOBuffer

  /// Memory for that many bytes, a multiple of 512.
  init(byteCount: Int) {
    let alignment = 4096
    content = ByteBufferAllocator().buffer(capacity: byteCount + alignment)
    // The address stays what it is: the storage is moved only when the buffer grows or is copied on
    // a write, and until `take()` nobody else has it nor is anything written to it.
    let base = content.withVeryUnsafeMutableBytes { UnsafeMutableRawBufferPointer($0).baseAddress }
    guard let base else { preconditionFailure("a buffer of some capacity without memory") }
    let start = (alignment - Int(bitPattern: base) % alignment) % alignment
    // The bytes counted as written here are written by the device before anybody reads them.
    content.moveWriterIndex(to: start + byteCount)
    content.moveReaderIndex(to: start)
    buffer = .foreign(base + start, byteCount: byteCount)
  }

  /// The content, once the read has ended well.
  consuming func take() -> ByteBuffer { content }
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
