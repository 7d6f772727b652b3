import BlockIO
import NIOCore

/// The content of a large read: memory that a device reads into and the network sends from, with no
/// copy in between.
///
/// The only unsafe code of this module: NIO sends nothing but its own buffers, and says nowhere but
/// here where their bytes are.
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
