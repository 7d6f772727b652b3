import BlockIO
import Testing

@testable import NBD

struct WriteTurnsTests {
  @Test func onlyAnExclusiveWriteKeepsOthersOut() {
    let turns = WriteTurns()
    let first = turns.tryBegin(0..<8, isExclusive: false)
    #expect(first != nil)
    #expect(turns.tryBegin(4..<12, isExclusive: false) != nil)
    #expect(turns.tryBegin(7..<8, isExclusive: true) == nil)
    #expect(turns.tryBegin(12..<13, isExclusive: true) != nil)
    #expect(turns.tryBegin(12..<13, isExclusive: false) == nil)
    #expect(turns.tryBegin(13..<20, isExclusive: false) != nil)
  }

  @Test func whoWaitsIsNextWhenTheWriteIsOver() async throws {
    let turns = WriteTurns()
    let first = try #require(turns.tryBegin(0..<8, isExclusive: true))
    async let second = turns.begin(0..<1, isExclusive: true)
    async let other = turns.begin(8..<9, isExclusive: true)
    turns.end(await other)
    turns.end(first)
    let turn = await second
    #expect(turns.tryBegin(0..<8, isExclusive: false) == nil)
    turns.end(turn)
    #expect(turns.tryBegin(0..<8, isExclusive: false) != nil)
  }

  /// Threads that add to one sector in turns, reading and writing it back, lose nothing.
  @Test func noUpdateIsLost() async throws {
    let turns = WriteTurns()
    let device = MemoryDevice(sectorCount: 1)
    let count = 200
    await withTaskGroup { group in
      for _ in 0..<4 {
        group.addTask {
          guard let pages = try? PagePool.lend(holding: 1) else { return }
          let buffer = pages.buffer.slice(0, 1)
          for _ in 0..<count {
            let turn = await turns.begin(0..<1, isExclusive: true)
            try? await device.read(0..<1, into: buffer)
            await Task.yield()
            buffer.store(buffer.integer(at: 0, as: UInt32.self) + 1, at: 0)
            try? await device.write(0..<1, from: buffer)
            turns.end(turn)
          }
        }
      }
    }
    let bytes = device.contents(0..<1)
    #expect(Int(bytes[0]) + Int(bytes[1]) << 8 == 4 * count)
  }
}
