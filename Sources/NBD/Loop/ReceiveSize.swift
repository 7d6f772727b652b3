import NIOCore

/// How much NIO reads: as much as holds many small messages, or but the head of a large one, whose
/// data are then received in their place.
struct ReceiveSize: RecvByteBufferAllocator {
  static let usual = 64 << 10
  static let little = 32

  let bytes: NIOLoopBoundBox<Int>

  func buffer(allocator: ByteBufferAllocator) -> ByteBuffer {
    allocator.buffer(capacity: bytes.value)
  }

  /// - Returns: true: the last buffer isn't used again, whatever its size.
  func record(actualReadBytes: Int) -> Bool { true }
}
