import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

/// The simulated disk keeps the promises of ``BlockDevice`` and breaks everything else.
@Suite struct SimulatedDiskTests {
  /// Random overlapping requests; the log and what the disk holds in the end.
  private static func run(seed: UInt64) throws -> (log: [LoggedRequest], contents: [UInt8]) {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 64, seed: seed, loop: loop)
      let pool = try PagePool(pageCount: 16)
      var random = SeededRandom(seed: seed)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<12 {
          let sectors = random.range(in: .zero..<64, longest: 8)
          let isRead = random.chance(1, in: 3)
          group.addTask {
            let pages = await pool.take(1)
            let buffer = pages.buffer.slice(.zero, sectors.length)
            if isRead {
              try await disk.read(sectors, into: buffer)
            } else {
              Pattern("w\(number)").fill(buffer, from: sectors.lowerBound)
              try await disk.write(sectors, from: buffer)
            }
          }
        }
        try await group.waitForAll()
      }
      return (disk.log, disk.contents)
    }
  }

  @Test func sameSeedSameRun() throws {
    try forEachSeed(10) { seed in
      let first = try Self.run(seed: seed)
      let second = try Self.run(seed: seed)
      try ensure(first.log == second.log, "the logs differ")
      try ensure(first.contents == second.contents, "the contents differ")
    }
    let runs = try (0..<8).map { try Self.run(seed: $0).log.map(\.end) }
    #expect(Set(runs).count == 8)
  }

  @Test func requestsOverlapAndOvertakeEachOther() throws {
    let log = try Self.run(seed: 1).log
    #expect(log.maximumInFlight == 12)
    let ends = log.compactMap { $0.end?.nanoseconds }
    #expect(ends != ends.sorted())
  }
}
