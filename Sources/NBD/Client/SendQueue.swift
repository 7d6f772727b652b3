import BlockIO
import DequeModule
import NIOCore

/// Requests that are to be sent on a connection, in order. The data of writes stay where they are
/// until they are sent. Pure, but for that memory.
///
/// An entry refers to memory of its request, which is therefore not to be over before: its answer
/// is expected only when it has been sent.
struct SendQueue {
  /// A piece of what comes next.
  enum Part {
    /// Bytes of ``heads``, counted from its reader index.
    case head(Range<Int>)
    case data(IOBuffer, Range<Int>)
  }

  private struct Entry {
    let number: RequestLedger.Number
    let request: ClientRequest
    /// Bytes of the head that aren't sent yet.
    var head = RequestHeader.size
    /// The data that aren't sent yet.
    var data: Range<Int>

    var count: Int { head + data.count }

    var memory: IOBuffer? {
      if case .write(let buffer, _) = request.operation { buffer } else { nil }
    }
  }

  private var entries: Deque<Entry> = []
  /// The heads of all entries, one after the other.
  private(set) var heads = ByteBuffer()

  var isEmpty: Bool { entries.isEmpty }

  mutating func append(_ request: ClientRequest, _ number: RequestLedger.Number) {
    var entry = Entry(number: number, request: request, data: 0..<0)
    if entry.memory != nil { entry.data = 0..<request.payload }
    entries.append(entry)
    // What has been sent makes room for what comes.
    if heads.readerIndex >= 4096 { heads.discardReadBytes() }
    RequestHeader(
      request.command, flags: request.flags, cookie: number, offset: request.bytes.lowerBound,
      length: UInt32(request.bytes.count)
    ).write(to: &heads)
  }

  /// Calls `body` with what comes next, piece by piece, in order.
  func forEachPart(_ body: (Part) -> Void) {
    var start = 0
    for entry in entries {
      if entry.head > 0 { body(.head(start..<start + entry.head)) }
      start += entry.head
      if let memory = entry.memory, !entry.data.isEmpty { body(.data(memory, entry.data)) }
    }
  }

  /// So many bytes have been sent; calls `sent` with each request that is sent as a whole thereby.
  mutating func advance(
    by count: Int, sent: (RequestLedger.Number, ClientRequest) -> Void
  ) {
    var left = count
    while left > 0, var entry = entries.first {
      let head = min(left, entry.head)
      entry.head -= head
      heads.moveReaderIndex(forwardBy: head)
      let data = min(left - head, entry.data.count)
      entry.data = entry.data.lowerBound + data..<entry.data.upperBound
      left -= head + data
      if entry.count == 0 {
        entries.removeFirst()
        sent(entry.number, entry.request)
      } else {
        entries[0] = entry
      }
    }
    precondition(left == 0, "more was sent than there was")
  }

  /// A copy of what comes next, so many bytes at most.
  func copy(first count: Int) -> ByteBuffer {
    var bytes = ByteBuffer()
    forEachPart { part in
      let room = count - bytes.readableBytes
      guard room > 0 else { return }
      switch part {
      case .head(let range):
        let start = heads.readerIndex + range.lowerBound
        bytes.writeImmutableBuffer(
          heads.getSlice(at: start, length: min(room, range.count)) ?? ByteBuffer())
      case .data(let memory, let range):
        memory.withBytes {
          let end = range.lowerBound + min(room, range.count)
          _ = bytes.writeBytes($0.extracting(range.lowerBound..<end))
        }
      }
    }
    return bytes
  }
}
