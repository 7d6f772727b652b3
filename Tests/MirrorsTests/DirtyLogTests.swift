import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Mirrors

/// What a mirror makes of the log that it finds when it is resumed.
@Suite struct DirtyLogTests {
  /// A log device of eight sectors that holds no log.
  private static func disk(on loop: IOLoop) -> SimulatedDisk {
    SimulatedDisk("log", sectorCount: 8, loop: loop)
  }

  /// Puts a log on the disk.
  private static func put(
    _ bits: [UInt8], regions: UInt64, magic: UInt32 = 0x4D69_5272, version: UInt32 = 2,
    on disk: SimulatedDisk
  ) {
    var bytes = disk.contents
    bytes.put(magic, at: 0)
    bytes.put(version, at: 4)
    bytes.put(regions, at: 8)
    bytes.replaceSubrange(1024..<1024 + bits.count, with: bits)
    disk.fill(bytes)
  }

  private static func log(
    _ disk: SimulatedDisk, regions: UInt64, _ policy: DirtyLog.Policy = .asLogged
  ) throws -> DirtyLog {
    try DirtyLog(
      regionCount: regions, policy: policy, disk: DiskLog(disk, regionCount: regions))
  }

  /// A log that is found.
  struct Found: Sendable {
    var bits: [UInt8]
    var regions: UInt64
    var magic: UInt32 = 0x4D69_5272
    var version: UInt32 = 2
    var policy = DirtyLog.Policy.asLogged
    /// How many regions there are now, and the bits that come of it.
    var now: UInt64
    var expected: [UInt8]
  }

  @Test(arguments: [
    // As it is.
    Found(bits: [0xf7, 0xfe, 0x7f], regions: 24, now: 24, expected: [0xf7, 0xfe, 0x7f]),
    // Grown: what the log doesn't know is out of sync, whatever its bits say.
    Found(bits: [0xff, 0xff, 0xff], regions: 10, now: 20, expected: [0xff, 0x03, 0]),
    Found(
      bits: Array(repeating: 0xff, count: 16), regions: 60, now: 70,
      expected: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0]),
    Found(bits: [], regions: 0, now: 9, expected: [0, 0]),
    // Shrunk: bits up to the end of the word are cleared.
    Found(bits: [0xff, 0xff, 0xff], regions: 24, now: 10, expected: [0xff, 0x03, 0]),
    // What volume managers make: the bits as they are, for any number of regions.
    Found(bits: [0xff, 0xff], regions: .max, now: 12, expected: [0xff, 0x0f]),
    Found(bits: [0, 0], regions: .max, now: 12, expected: [0, 0]),
    // Whatever the log says.
    Found(bits: [0xff, 0xff], regions: 16, policy: .sync, now: 16, expected: [0, 0]),
    Found(bits: [0x01, 0], regions: 16, policy: .nosync, now: 12, expected: [0xff, 0x0f]),
    // Version 1 is the same on little-endian machines.
    Found(bits: [0xa5], regions: 8, version: 1, now: 8, expected: [0xa5]),
    // No log.
    Found(bits: [0xff], regions: 8, magic: 0x4D69_5273, now: 8, expected: [0]),
    Found(bits: [0], regions: 8, magic: 0, policy: .nosync, now: 8, expected: [0xff]),
  ])
  func isTakenAsItIs(_ found: Found) throws {
    try simulate { loop in
      let disk = Self.disk(on: loop)
      Self.put(
        found.bits, regions: found.regions, magic: found.magic, version: found.version, on: disk)
      let before = disk.contents
      let log = try Self.log(disk, regions: found.now, found.policy)
      #expect(try await log.resume() == nil)
      let count = found.expected.reduce(0) { $0 + UInt64($1.nonzeroBitCount) }
      #expect(log.syncCount == count)
      for region in 0..<found.now {
        let isSet = found.expected[Int(region / 8)] >> (region % 8) & 1 == 1
        #expect(log.isInSync(Region(region)) == isSet)
      }
      // The log is rewritten, durably, and keeps what isn't header or bits.
      #expect(disk.log.map(\.operation) == [.read, .write, .flush])
      var expected = before
      expected.put(0x4D69_5272 as UInt32, at: 0)
      expected.put(2 as UInt32, at: 4)
      expected.put(found.now, at: 8)
      let words = Int((found.now + 63) / 64) * 8
      let bits = found.expected + Array(repeating: 0, count: words - found.expected.count)
      expected.replaceSubrange(1024..<1024 + words, with: bits)
      #expect(disk.mismatch(with: expected) == nil)
    }
  }

  /// An unknown version is no log to be trusted: all is out of sync, and the log counts as failed.
  @Test(arguments: [0, 3, 0x0200_0000] as [UInt32])
  func anUnknownVersionFailsTheLog(_ version: UInt32) throws {
    try simulate { loop in
      let disk = Self.disk(on: loop)
      Self.put([0xff], regions: 8, version: version, on: disk)
      let log = try Self.log(disk, regions: 8)
      let problem = try #require(try await log.resume())
      #expect(problem.contains("version \(version)"))
      #expect(log.syncCount == 0)
      #expect(log.hasFailed)
      #expect(disk.contents.number(at: 4, as: UInt32.self) == 2)
      #expect(disk.contents[1024] == 0)
    }
  }

  /// A log that can't be read counts as failed, and gets a proper header all the same: the next
  /// mirror can use it.
  @Test(arguments: [DirtyLog.Policy.asLogged, .sync, .nosync])
  func anUnreadableLogIsMadeAnew(_ policy: DirtyLog.Policy) throws {
    try simulate { loop in
      let disk = Self.disk(on: loop)
      Self.put([0xff], regions: 8, on: disk)
      var plan = FaultPlan()
      plan.fail(.read, 0..<8)
      disk.plan = plan
      let log = try Self.log(disk, regions: 8, policy)
      #expect(try await log.resume() != nil)
      #expect(log.hasFailed)
      #expect(log.syncCount == (policy == .nosync ? 8 : 0))
      disk.plan = FaultPlan()
      let next = try Self.log(disk, regions: 8)
      #expect(try await next.resume() == nil)
      #expect(next.syncCount == (policy == .nosync ? 8 : 0))
      #expect(!next.hasFailed)
    }
  }

  /// A log that can't be written, or flushed, has failed; the mirror goes on.
  @Test(arguments: [false, true])
  func anUnwritableLogHasFailed(_ isFlush: Bool) throws {
    try simulate { loop in
      let disk = Self.disk(on: loop)
      Self.put([0xf0], regions: 8, on: disk)
      var plan = FaultPlan()
      if isFlush { plan.failFlushes(times: 1) } else { plan.fail(.write, 0..<8, times: 1) }
      disk.plan = plan
      let log = try Self.log(disk, regions: 8)
      let problem = try #require(try await log.resume())
      #expect(log.condition == (isFlush ? .flushFailed(problem) : .failed(problem)))
      #expect(log.syncCount == 4)
    }
  }

  /// In memory: nothing at first, or everything; a second resume keeps what there is.
  @Test func withoutADisk() async throws {
    try simulate { loop in
      for (policy, count) in [(DirtyLog.Policy.asLogged, 0), (.sync, 0), (.nosync, 8)] {
        let log = DirtyLog(regionCount: 8, policy: policy, disk: nil)
        #expect(try await log.resume() == nil)
        #expect(log.syncCount == UInt64(count))
      }
      let log = DirtyLog(regionCount: 8, policy: .asLogged, disk: nil)
      _ = try await log.resume()
      log.setSync(3, true)
      _ = try await log.resume()
      #expect(log.isInSync(3))
      #expect(log.syncCount == 1)
    }
  }

  /// Work is given out once, in order, as pieces of neighbours that aren't in sync.
  @Test func recoveryWorkIsGivenOutOnce() throws {
    try simulate { loop in
      let disk = Self.disk(on: loop)
      Self.put([0b0110_0100, 0b1111_0000], regions: 16, on: disk)
      let log = try Self.log(disk, regions: 16)
      _ = try await log.resume()
      #expect(log.nextRecoveryWork(1) == 0..<1)
      #expect(log.nextRecoveryWork(8) == 1..<2)
      #expect(log.nextRecoveryWork(2) == 3..<5)
      log.setSync(3, false)
      #expect(log.nextRecoveryWork(8) == 7..<12)
      #expect(log.nextRecoveryWork(8) == nil)
      log.startOver()
      #expect(log.nextRecoveryWork(8) == 3..<4)
    }
  }

  @Test(arguments: [(1, 512, 3), (4096, 512, 3), (4097, 512, 4), (1, 4096, 8), (24577, 4096, 16)])
  func geometry(_ regions: Int, _ block: Int, _ sectors: Int) {
    let geometry = LogGeometry(regionCount: UInt64(regions), block: block)
    #expect(geometry.length == Sector(UInt64(sectors)))
    #expect(geometry.blockCount == sectors * 512 / block)
    #expect(geometry.block(of: 0) == 1024 / block)
    #expect(geometry.block(of: Region(UInt64(regions - 1))) == geometry.blockCount - 1)
    #expect(
      geometry.sectors(ofBlocks: 0..<geometry.blockCount) == 0..<Sector(UInt64(sectors)))
  }
}
