import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Snapshots

/// Damaged stores of every kind: refused or read, never a crash, an endless loop or a written byte;
/// and what is read is what the bytes say.
@Suite struct StoreFuzzTests {
  private static let originChunks: UInt64 = 64

  /// 2 000 stores, each with some bytes that aren't as they were written.
  @Test func damagedStores() throws {
    var loaded = 0
    var refused = 0
    try forEachSeed(2000) { seed in
      var random = SeededRandom(seed: seed)
      if try Self.open(Self.damaged(&random)) { loaded += 1 } else { refused += 1 }
    }
    // Both happen, or the test tests nothing.
    if loaded + refused >= 2000 {
      #expect(loaded > 200)
      #expect(refused > 200)
    }
  }

  // MARK: Making

  private static func damaged(_ random: inout SeededRandom) -> [UInt8] {
    var bytes = valid(&random)
    for _ in 0..<1 + random.below(3) {
      switch random.below(8) {
      case 0: flip(&bytes, 0..<16, &random)
      case 1: flip(&bytes, bytes.count > 8192 ? 4096..<8192 : 0..<bytes.count, &random)
      case 2, 3:
        // An entry of the first area, either half of it, with a number near a limit or any.
        let offset = 4096 + 8 * random.below(96)
        if offset + 8 <= bytes.count { bytes.put(number(&random), at: offset) }
      case 4: bytes.put(UInt32(1) &<< UInt32(random.below(32)), at: 12)
      case 5: bytes.removeLast(min(bytes.count - 512, 512 * random.below(400)))
      case 6:
        let start = random.below(bytes.count / 512) * 512
        for offset in stride(from: start, to: start + 512, by: 8) {
          bytes.put(random.next(), at: offset)
        }
      default: flip(&bytes, 0..<bytes.count, &random)
      }
    }
    return bytes
  }

  /// A store of 8 or 16 sectors a chunk with exceptions in no order; now and then one that has
  /// a second area.
  private static func valid(_ random: inout SeededRandom) -> [UInt8] {
    let isLong = random.chance(1, in: 20)
    let chunkSectors: UInt32 = isLong || random.chance(3, in: 4) ? 8 : 16
    let chunk = Int(chunkSectors) * 512
    let chunks = isLong ? 290 : 12 + random.below(60)
    var bytes = [UInt8](repeating: UInt8(random.below(256)), count: chunks * chunk)
    bytes.replaceSubrange(..<(2 * chunk), with: repeatElement(0, count: 2 * chunk))
    bytes.putHeader(chunkSectors: chunkSectors)
    let olds = (0..<originChunks * 8 / UInt64(chunkSectors)).shuffled(using: &random)
    let news = (2..<UInt64(min(chunks, 257))).shuffled(using: &random)
    for (index, (old, new)) in zip(olds, news).prefix(random.below(65)).enumerated() {
      bytes.putException(chunkSectors: chunkSectors, index: index, old: old, new: new)
    }
    return bytes
  }

  private static func number(_ random: inout SeededRandom) -> UInt64 {
    switch random.below(4) {
    case 0: UInt64(random.below(80))
    case 1: (1 as UInt64) &<< UInt64(random.below(64)) &+ UInt64(random.below(3)) &- 1
    case 2: 0
    default: random.next()
    }
  }

  private static func flip(
    _ bytes: inout [UInt8], _ range: Range<Int>, _ random: inout SeededRandom
  ) {
    bytes[range.lowerBound + random.below(range.count)] ^= 1 << UInt8(random.below(8))
  }

  // MARK: Opening

  /// Whether the store is taken. Throws if it is and reads as something else, or was written.
  private static func open(_ bytes: [UInt8]) throws -> Bool {
    try simulate { loop in
      let cow = MemoryDevice(name: "cow", sectorCount: Sector(UInt64(bytes.count / 512)))
      try await cow.put(bytes, at: 0)
      let disk = MemoryDevice(name: "origin", sectorCount: Sector(originChunks * 8))
      try await disk.put(originBytes, at: 0)
      let origin = try Origin(disk, on: loop)
      let snapshot: SnapshotDevice
      var writtenByOpening: ContentMismatch?
      do throws(SnapshotError) {
        snapshot = try await origin.addSnapshot(cow: cow, mustExist: true)
        writtenByOpening = cow.mismatch(with: bytes)
        try await snapshot.resume()
      } catch {
        switch error {
        case .damaged, .noStore: break
        default: throw error
        }
        if let mismatch = cow.mismatch(with: bytes) { throw mismatch }
        return false
      }
      if let writtenByOpening { throw writtenByOpening }
      if await snapshot.status.condition == .valid {
        let seen = try await snapshot.contents(0..<disk.sectorCount)
        try check(seen, bytes)
      } else {
        try ensure(bytes[4..<8].allSatisfy { $0 == 0 }, "invalid, but not marked as such")
      }
      await snapshot.remove()
      // The header of an empty store is written once more, as it should be.
      if let mismatch = cow.mismatch(with: bytes, from: 1) { throw mismatch }
      return true
    }
  }

  /// Every chunk of the origin with its own bytes.
  private static let originBytes: [UInt8] = (0..<originChunks).flatMap {
    [UInt8](repeating: UInt8($0), count: 4096)
  }

  /// Throws unless a snapshot reads as a store that is in order says by the description of the
  /// format.
  private static func check(_ seen: [UInt8], _ bytes: [UInt8]) throws {
    let chunkSectors = bytes.number(at: 12, as: UInt32.self)
    let chunk = Int(chunkSectors) * 512
    var exceptions: [Int: Int] = [:]
    for index in 0... {
      let offset = exceptionOffset(
        chunkSectors: chunkSectors, area: UInt64(index / (chunk / 16)), index: index % (chunk / 16))
      let new = Int(bytes.number(at: offset + 8, as: UInt64.self))
      if new == 0 { break }
      exceptions[Int(bytes.number(at: offset, as: UInt64.self))] = new
    }
    var expected = originBytes
    for (old, new) in exceptions {
      let count = min(chunk, seen.count - old * chunk)
      // Pieces of memory, not bytes: it is done for 2 000 stores without the optimizer.
      expected.withUnsafeMutableBytes { target in
        bytes.withUnsafeBytes { source in
          UnsafeMutableRawBufferPointer(rebasing: target[old * chunk..<old * chunk + count])
            .copyMemory(
              from: UnsafeRawBufferPointer(rebasing: source[new * chunk..<new * chunk + count]))
        }
      }
    }
    if let mismatch = ContentMismatch(seen, expected: expected, from: 0) { throw mismatch }
  }
}

extension SeededRandom {
  /// A number below `bound`.
  fileprivate mutating func below(_ bound: Int) -> Int {
    Int(next(upperBound: UInt64(bound)))
  }
}
