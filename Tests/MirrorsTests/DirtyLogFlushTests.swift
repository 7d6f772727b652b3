import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Mirrors

/// Bits of the dirty log on their way to the disk, and what has to be durable before.
@Suite struct DirtyLogFlushTests {
  /// A log of `regions` in sync, on a disk with an empty request log.
  private static func log(
    _ disk: SimulatedDisk, regions: UInt64 = 16
  ) async throws -> DirtyLog {
    let log = try DirtyLog(
      regionCount: regions, policy: .nosync, disk: DiskLog(disk, regionCount: regions))
    _ = try await log.resume()
    disk.clearLog()
    return log
  }

  private static func flush(_ log: DirtyLog) async { await log.flush { true } }

  /// A dirty bit is durable when the flush is over; a clean one needs the legs flushed before.
  @Test func dirtyBitsAreFlushedAndCleanOnesComeAfterTheLegs() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      let noLegs = { () async -> Bool in
        Issue.record("the legs were flushed")
        return true
      }
      #expect(await log.flush(legs: noLegs))
      #expect(disk.log.isEmpty)
      log.mark(5)
      log.mark(5)
      #expect(await log.flush(legs: noLegs))
      #expect(disk.log.map(\.operation) == [.write, .flush])
      #expect(disk.contents[1024] == 0xdf)
      #expect(log.isInSync(5))
      disk.clearLog()
      log.clear(5)
      let seen = Locked<[UInt8]>([])
      #expect(
        await log.flush {
          seen.withLock { $0.append(disk.contents[1024]) }
          return true
        })
      #expect(seen.value == [0xdf])
      #expect(disk.log.map(\.operation) == [.write])
      #expect(disk.contents[1024] == 0xff)
    }
  }

  /// What is written again while the legs are flushed isn't covered by that, though it is over and
  /// idle before the flush is.
  @Test func aRegionWrittenAndIdleAgainMeanwhileIsNotCleaned() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      log.mark(1)
      await log.flush { true }
      log.clear(1)
      await log.flush {
        log.mark(1)
        log.clear(1)
        return true
      }
      #expect(!log.clean[1])
      await log.flush { true }
      #expect(log.clean[1])
    }
  }

  /// A write may do without the log only from the end of the flush of its mark on, and until its
  /// region is called clean.
  @Test func marksAreDurableAfterTheirFlush() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      #expect(!log.isMarkedDurably(1))
      log.mark(1)
      log.mark(2)
      #expect(!log.isMarkedDurably(1))
      log.clear(2)
      // Marked while the log is on its way: not before the next flush.
      // One loop, one thread: never two at once.
      nonisolated(unsafe) let shared = log
      let flush = Task(executorPreference: loop) { await Self.flush(shared) }
      while disk.log.isEmpty { await loop.sleep(for: .microseconds(1)) }
      log.mark(3)
      #expect(!log.isMarkedDurably(1))
      _ = await flush.value
      #expect(log.isMarkedDurably(1) && !log.isMarkedDurably(2) && !log.isMarkedDurably(3))
      await log.flush { true }
      #expect(log.isMarkedDurably(3))
      // Called clean, and marked once more: the mark is new.
      log.clear(1)
      await log.flush { true }
      #expect(!log.isMarkedDurably(1))
      log.mark(1)
      #expect(!log.isMarkedDurably(1))
      await log.flush { true }
      #expect(log.isMarkedDurably(1))
      // A leg couldn't be flushed: 3 isn't called clean, and goes on being marked.
      log.clear(3)
      await log.flush { false }
      #expect(log.isMarkedDurably(3) && !log.clean[3])
      log.stopCleaning()
      #expect(!log.isMarkedDurably(2))
    }
  }

  /// What is written again while the legs are flushed stays dirty.
  @Test func aRegionWrittenMeanwhileIsNotCleaned() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      log.mark(1)
      log.mark(2)
      await log.flush { true }
      log.clear(1)
      log.clear(2)
      await log.flush {
        log.mark(2)
        return true
      }
      #expect(disk.contents[1024] == 0b1111_1011)
    }
  }

  /// After a leg couldn't be flushed the bits in question aren't set, until they are asked for again.
  @Test func aRegionIsNotCleanAfterALegWasNotFlushed() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      log.mark(1)
      await log.flush { true }
      log.clear(1)
      disk.clearLog()
      #expect(await log.flush { false })
      #expect(await log.flush { true })
      #expect(disk.log.isEmpty && log.uncleanInSync == [1])
      log.clear(1)
      #expect(await log.flush { true })
      #expect(disk.contents[1024] == 0xff && log.uncleanInSync.isEmpty)
    }
  }

  /// In the kernel's way no bit is set any more then, and those that are set are cleared.
  @Test func nothingIsCleanAfterALegWasNotFlushed() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      log.mark(1)
      await log.flush { true }
      log.clear(1)
      disk.clearLog()
      // One loop, one thread: never two at once.
      nonisolated(unsafe) let shared = log
      #expect(
        await log.flush {
          shared.stopCleaning()
          return false
        })
      #expect(disk.log.map(\.operation) == [.write, .flush])
      #expect(Array(disk.contents[1024..<1026]) == [0, 0])
      #expect(log.syncCount == 16)
      log.clear(3)
      await log.flush { true }
      #expect(Array(disk.contents[1024..<1026]) == [0, 0])
    }
  }

  /// A write of the log that fails is tried again by the next flush; the log counts as failed.
  @Test(arguments: [false, true])
  func aFailedFlushIsDoneAgain(_ isFlush: Bool) throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      var plan = FaultPlan()
      if isFlush { plan.failFlushes(times: 1) } else { plan.fail(.write, 0..<8, times: 1) }
      disk.plan = plan
      log.mark(9)
      #expect(await !log.flush { true })
      disk.clearLog()
      #expect(await !log.flush { true })
      #expect(disk.log.of(.flush).count == 1)
      #expect(disk.contents[1025] == 0xfd)
      switch log.condition {
      case .flushFailed: #expect(isFlush)
      case .failed: #expect(!isFlush)
      case .alive: Issue.record("alive")
      }
    }
  }

  /// `F` wins over `D`, in whatever order they come.
  @Test(arguments: [false, true])
  func aFailedFlushIsWorse(_ isFlushFirst: Bool) throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk)
      for isFlush in [isFlushFirst, !isFlushFirst] {
        var plan = FaultPlan()
        if isFlush { plan.failFlushes() } else { plan.fail(.write, 0..<8) }
        disk.plan = plan
        log.mark(isFlush ? 1 : 2)
        await log.flush { true }
      }
      guard case .flushFailed = log.condition else {
        Issue.record("\(log.condition)")
        return
      }
    }
  }

  /// Only blocks in which a bit has changed are written, neighbours together.
  @Test func onlyWhatChangesIsWritten() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let log = try await Self.log(disk, regions: 4 * 4096)
      for region in [1, 4095, 4096, 12_295] as [Region] { log.mark(region) }
      #expect(await log.flush { true })
      #expect(disk.log.of(.write).map(\.sectors) == [2..<4, 5..<6])
      #expect(disk.contents[1024] == 0xfd)
      #expect(disk.contents[1024 + 511] == 0x7f)
      #expect(disk.contents[1024 + 512] == 0xfe)
      #expect(disk.contents[1024 + 3 * 512] == 0x7f)
    }
  }

  /// Flushes that come while one is under way share the next one.
  @Test func flushesAreShared() throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let mirror = try await settled(legs: 2, log: disk, on: loop)
      disk.clearLog()
      try await withThrowingTaskGroup(of: Void.self) { group in
        for region in 0..<8 as Range<UInt64> {
          group.addTask(executorPreference: loop) {
            try await mirror.put("new", Sector(region * 32)..<Sector(region * 32 + 1))
          }
        }
        try await group.waitForAll()
      }
      #expect(disk.count(of: .flush) <= 2)
      await mirror.suspend()
    }
  }

  // MARK: Whole mirrors

  /// On a leg no sector of a write is sent before the dirty bit is durable, and the bit isn't set
  /// again before the leg has been flushed after it.
  @Test(arguments: [true, false])
  func dataComeAfterTheDirtyBit(_ isKernel: Bool) throws {
    try simulate { loop in
      let disk = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      var parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      if isKernel { parameters.conduct = .kernel }
      let mirror = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: disk, parameters: parameters, on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      for device in legs + [disk] { device.clearLog() }
      try await mirror.put("new", 40..<50)
      await mirror.suspend()
      let writes = disk.log.of(.write)
      let flushed = try #require(disk.log.of(.flush).first?.end)
      #expect(writes.count == 2)
      for leg in legs {
        let data = try #require(leg.log.of(.write).first)
        let flush = try #require(leg.log.of(.flush).last)
        let (dataEnd, flushEnd) = (try #require(data.end), try #require(flush.end))
        #expect(flushed <= data.start)
        #expect(dataEnd <= flush.start)
        #expect(flushEnd <= writes[1].start)
      }
    }
  }
}

/// A mirror in sync with regions of 32 sectors, 512 in all.
func settled(
  legs count: Int, log: SimulatedDisk?, on loop: IOLoop
) async throws -> MirrorDevice {
  let legs = (0..<count).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
  let mirror = try MirrorDevice(
    legs: legs.map { MirrorLeg($0) }, log: log,
    parameters: MirrorParameters(regionSize: try #require(RegionSize(32))), on: loop)
  try await mirror.resume()
  await mirror.waitForRecovery()
  return mirror
}
