import BlockIO
import NIOCore

/// The data of a write as they come from the network. Large ones come into memory that any device
/// can write from; small ones stay where they were received, if they came as a whole.
struct ReceivedData {
  /// From so many bytes on they are large: less is copied faster than it is received by itself.
  static let large = 32 << 10

  /// No more than that is received in one go.
  private static let longestReceive = 4 << 20

  /// How many bytes they are to be.
  let wanted: Int
  /// How many have come.
  private(set) var count = 0
  private var bytes = ByteBuffer()
  private let memory: RequestMemory?

  init(wanted: Int) {
    self.wanted = wanted
    memory = wanted >= Self.large ? RequestMemory(byteCount: wanted) : nil
  }

  var isComplete: Bool { count == wanted }

  /// Takes what is missing, as far as `input` has it.
  mutating func take(from input: inout ByteBuffer) {
    guard let piece = input.readSlice(length: min(wanted - count, input.readableBytes)) else {
      return
    }
    if let memory {
      memory.buffer.store(piece.readableBytesSpan, at: count)
    } else if count == 0, piece.readableBytes == wanted {
      bytes = piece
    } else {
      // Not the piece itself: it keeps the memory that it was received into, and a client may send
      // byte by byte.
      bytes.reserveCapacity(wanted)
      bytes.writeImmutableBuffer(piece)
    }
    count += piece.readableBytes
  }

  /// Receives what is missing, as far as the socket has it; large data only.
  mutating func receive(from socket: DirectSocket) {
    guard let memory else { return }
    // Then others of the thread have their turn.
    let end = min(wanted, count + Self.longestReceive)
    while count < end {
      let received = socket.receive(into: memory.buffer, count..<end)
      guard received > 0 else { return }
      count += received
    }
  }

  /// Memory that a device can write whole sectors from, whenever it likes; nil for small data.
  var lasting: IOBuffer? { memory?.buffer }

  /// Calls `body` with all of it, whole sectors, in a call that has used the memory when it returns.
  func withSectors(_ body: (IOBuffer) -> Bool) -> Bool {
    if let memory { body(memory.buffer) } else { bytes.withSectors(body) }
  }

  /// Puts the bytes of `range` into `buffer`, from a byte offset on.
  func store(_ range: Range<Int>, into buffer: IOBuffer, at offset: Int) {
    if let memory {
      memory.buffer.withBytes { buffer.store($0.extracting(range), at: offset) }
    } else {
      buffer.store(bytes.readableBytesSpan.extracting(range), at: offset)
    }
  }
}
