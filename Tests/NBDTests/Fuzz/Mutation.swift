import BlockIOTesting
import NIOCore

extension SeededRandom {
  /// A number of `0..<count`.
  mutating func below(_ count: Int) -> Int { Int(next(upperBound: UInt64(count))) }

  /// One of several.
  mutating func one<Choices: RandomAccessCollection>(of choices: Choices) -> Choices.Element {
    choices[choices.index(choices.startIndex, offsetBy: below(choices.count))]
  }

  /// Does one thing to bytes that makes something else of them.
  mutating func mutate(_ bytes: inout [UInt8]) {
    guard !bytes.isEmpty else { return bytes.append(UInt8(truncatingIfNeeded: next())) }
    let place = below(bytes.count)
    let end = min(bytes.count, place + 1 + below(40))
    switch below(8) {
    case 0: bytes[place] ^= 1 << UInt8(below(8))
    case 1: bytes[place] = one(of: [0, 1, 0x7f, 0x80, 0xff])
    case 2:
      // A number that is as large, or as small, as numbers get.
      let number = UInt8(chance(1, in: 2) ? 0xff : 0)
      for index in place..<min(bytes.count, place + one(of: [2, 4, 8])) { bytes[index] = number }
    case 3: bytes.removeSubrange(place..<end)
    case 4: bytes.insert(contentsOf: bytes[place..<end], at: below(bytes.count))
    case 5: bytes.insert(UInt8(truncatingIfNeeded: next()), at: place)
    case 6: bytes.removeSubrange(place...)
    default: bytes.swapAt(place, below(bytes.count))
    }
  }

  /// Bytes in pieces as they may come over a connection.
  mutating func cut(_ bytes: [UInt8]) -> [ByteBuffer] {
    var pieces: [ByteBuffer] = []
    var start = 0
    while start < bytes.count {
      let longest = one(of: [1, 3, 30, 1000, 70_000])
      let end = min(bytes.count, start + 1 + below(longest))
      pieces.append(ByteBuffer(bytes: bytes[start..<end]))
      start = end
    }
    return pieces
  }
}

extension ByteBuffer {
  var array: [UInt8] { Array(readableBytesView) }
}
