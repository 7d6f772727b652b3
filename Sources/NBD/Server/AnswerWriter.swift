import NIOCore

/// Writes the answers to one request.
struct AnswerWriter {
  let cookie: UInt64
  let isStructured: Bool

  /// The bytes before the content of a read.
  var readHead: Int { isStructured ? 28 : 16 }

  /// All is well, and there is nothing to say.
  func writeDone(to buffer: inout ByteBuffer) {
    ReplyHeader.simple(error: .none, cookie: cookie).write(to: &buffer)
  }

  /// What comes before the content of a read: that follows, all of it.
  func writeReadHead(_ request: RequestHeader, to buffer: inout ByteBuffer) {
    guard isStructured else { return writeDone(to: &buffer) }
    ReplyHeader.chunk(
      type: .offsetData, flags: .done, cookie: cookie, length: request.length + 8
    ).write(to: &buffer)
    buffer.writeInteger(request.offset)
  }

  /// The request failed.
  func write(
    _ error: WireError, _ reason: String, to buffer: inout ByteBuffer
  ) {
    guard isStructured else {
      return ReplyHeader.simple(error: error, cookie: cookie).write(to: &buffer)
    }
    let message = ByteBuffer(bytes: reason.utf8.prefix(WireLimits.name))
    ReplyHeader.chunk(
      type: .error, flags: .done, cookie: cookie, length: UInt32(6 + message.readableBytes)
    ).write(to: &buffer)
    buffer.writeMultipleIntegers(error.rawValue, UInt16(message.readableBytes))
    buffer.writeImmutableBuffer(message)
  }

  /// Extents of `base:allocation`.
  func write(
    _ extents: [(length: UInt32, flags: AllocationFlags)], to buffer: inout ByteBuffer
  ) {
    ReplyHeader.chunk(
      type: .blockStatus, flags: .done, cookie: cookie, length: UInt32(4 + 8 * extents.count)
    ).write(to: &buffer)
    buffer.writeInteger(ServerNegotiation.allocationContext)
    for extent in extents {
      buffer.writeMultipleIntegers(extent.length, extent.flags.rawValue)
    }
  }
}
