import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

@Suite struct SendQueueTests {
  /// The bytes of the parts, one after the other.
  private static func bytes(_ queue: SendQueue) -> [UInt8] {
    var bytes: [UInt8] = []
    queue.forEachPart { part in
      switch part {
      case .head(let range):
        bytes += queue.heads.readableBytesView.dropFirst(range.lowerBound).prefix(range.count)
      case .data(let memory, let range):
        memory.withBytes { span in
          for index in range {
            bytes.append(span.unsafeLoad(fromByteOffset: index, as: UInt8.self))
          }
        }
      }
    }
    return bytes
  }

  @Test func `whatever is sent at a time, everything is sent in order and once`() throws {
    let pages = try PagePool.lend(holding: 8)
    let memory = pages.buffer
    memory.load(from: (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 3) })
    try forEachSeed(100) { seed in
      var random = SeededRandom(seed: seed)
      var queue = SendQueue()
      var expected: [UInt8] = []
      var ends: [(number: UInt64, at: Int)] = []
      var sent: [UInt64] = []
      var position = 0
      for number in 1...UInt64(200) {
        let count = 1 + random.below(8)
        let isWrite = random.chance(1, in: 2)
        let buffer = memory.slice(Sector(UInt64(8 - count)), Sector(UInt64(count)))
        let bytes = UInt64(number * 512)..<UInt64(number * 512) + UInt64(count * 512)
        let request = ClientRequest(
          operation: isWrite ? .write(buffer, durable: false) : .read(buffer), bytes: bytes)
        queue.append(request, number)
        var head = ByteBuffer()
        RequestHeader(
          request.command, cookie: number, offset: bytes.lowerBound, length: UInt32(bytes.count)
        ).write(to: &head)
        expected += head.array
        if isWrite {
          var data = [UInt8](repeating: 0, count: count * 512)
          buffer.store(into: &data)
          expected += data
        }
        ends.append((number, expected.count))
        guard random.chance(2, in: 3) else { continue }
        let left = expected.count - position
        let some = random.below(left + 1)
        try ensure(Self.bytes(queue) == Array(expected[position...]), "the parts")
        try ensure(
          queue.copy(first: some).array == Array(expected[position..<position + some]), "the copy")
        queue.advance(by: some) { number, _ in sent.append(number) }
        position += some
        try ensure(
          sent == ends.filter { $0.at <= position }.map(\.number), "who is sent at \(position)")
        try ensure(queue.isEmpty == (position == expected.count), "isEmpty")
      }
    }
  }
}
