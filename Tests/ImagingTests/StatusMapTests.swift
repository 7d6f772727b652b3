import BlockIO
import BlockIOTesting
import Imaging
import Testing

@Suite struct StatusMapTests {
  @Test func `any changes leave what a list of sectors has`() throws {
    try forEachSeed(300) { seed in
      var random = SeededRandom(seed: seed)
      let count = 1 + random.next(upperBound: UInt64(40))
      var map = StatusMap(count: Sector(count))
      var model = [BlockStatus](repeating: .nonTried, count: Int(count))
      for _ in 0..<40 {
        let range = random.range(in: 0..<Sector(count), longest: 12)
        let status = random.element(of: BlockStatus.allCases)
        map.set(range, status)
        for sector in range.lowerBound.rawValue..<range.upperBound.rawValue {
          model[Int(sector)] = status
        }
        try check(map, model, &random)
      }
    }
  }

  private func check(
    _ map: StatusMap, _ model: [BlockStatus], _ random: inout SeededRandom
  ) throws {
    let all = model.indices.map { map[Sector(UInt64($0))] }
    try ensure(all == model, "\(all) instead of \(model)")
    for (one, next) in zip(map.runs, map.runs.dropFirst()) {
      try ensure(
        one.status != next.status && one.sectors.upperBound == next.sectors.lowerBound,
        "runs \(one) and \(next)")
    }
    let window = random.range(in: 0..<map.count, longest: map.count)
    let wanted: Set<BlockStatus> = [random.element(of: BlockStatus.allCases), .badSector]
    let numbers = Int(window.lowerBound.rawValue)..<Int(window.upperBound.rawValue)
    let first = map.first(wanted, in: window)
    try ensure(
      (first?.sectors.lowerBound).map { Int($0.rawValue) }
        == numbers.first { wanted.contains(model[$0]) }, "first \(wanted) in \(window)")
    let last = map.last(wanted, in: window)
    try ensure(
      (last?.sectors.upperBound).map { Int($0.rawValue) - 1 }
        == numbers.last { wanted.contains(model[$0]) }, "last \(wanted) in \(window)")
    try ensure(
      map.sectors(wanted, in: window).sectorCount.rawValue
        == UInt64(numbers.count { wanted.contains(model[$0]) }), "sectors \(wanted) in \(window)")
  }

  @Test func `a sector is finished only if all of its bytes are`() throws {
    try forEachSeed(2000) { seed in
      var random = SeededRandom(seed: seed)
      var blocks: [Mapfile.Block] = []
      var position = random.next(upperBound: UInt64(700))
      for _ in 0..<1 + random.next(upperBound: UInt64(8)) {
        let end = position + 1 + random.next(upperBound: UInt64(1500))
        blocks.append(.init(position..<end, random.element(of: BlockStatus.allCases)))
        position = end
      }
      let size = 1 + random.next(upperBound: position + 600)
      var bytes = [BlockStatus](repeating: .nonTried, count: Int(size))
      for block in blocks {
        for byte in block.bytes where byte < size { bytes[Int(byte)] = block.status }
      }
      let order: [BlockStatus] = [.nonTried, .nonTrimmed, .nonScraped, .badSector, .finished]
      let map = StatusMap(Mapfile(blocks: blocks), byteCount: size)
      for sector in 0..<(size + 511) / 512 {
        let part = bytes[Int(sector * 512)..<min(Int(size), Int(sector * 512) + 512)]
        let least = order.first { part.contains($0) }
        try ensure(map[Sector(sector)] == least, "sector \(sector) of \(blocks), \(size) bytes")
      }
    }
  }

  @Test func `the last block ends with the source`() {
    var map = StatusMap(count: 3)
    map.set(1..<3, .finished)
    #expect(
      map.blocks(byteCount: 1100) == [.init(0..<512, .nonTried), .init(512..<1100, .finished)])
  }
}
