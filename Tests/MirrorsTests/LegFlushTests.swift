import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import SystemPackage
import Testing

@testable import Mirrors

/// A leg tells once that it has lost something, to one of those who flush it.
@Suite struct LegFlushTests {
  /// The log's flush was told that no leg has what was acknowledged: the next one that is asked for
  /// mustn't succeed, though every leg says that all is well.
  @Test func aLossOnAllLegsIsToldToTheUser() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      try await setting.mirror.put("new", 40..<50)
      for leg in setting.legs { MirrorSetting.fail(leg, .flush, times: 1) }
      await loop.sleep(for: .milliseconds(600))
      #expect(setting.legs.allSatisfy { $0.log.of(.flush).last?.failure != nil })
      await #expect(throws: IOFailure.self) { try await setting.mirror.flush() }
      // Told once.
      try await setting.mirror.flush()
      await setting.mirror.suspend()
    }
  }

  /// A user's flush is told of a loss, late, while the log's goes well: the region isn't called clean.
  @Test func theLogWaitsForWhatOthersAreTold() throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let log = SimulatedDisk("log", sectorCount: 8, loop: loop)
      var parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      parameters.conduct.retryDelay = nil
      let forgetful = LateTeller(legs[0], loop)
      let mirror = try MirrorDevice(
        legs: [MirrorLeg(forgetful), MirrorLeg(legs[1])], log: log, parameters: parameters,
        on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("new", 40..<50)
      await loop.sleep(for: .milliseconds(450))
      forgetful.losesNext.withLock { $0 = true }
      // The log's begins and ends meanwhile.
      try await mirror.flush()
      await loop.sleep(for: .seconds(1))
      #expect(await mirror.status.regionsInSync == 15)
      #expect(log.contents[1024] == 0xfd)
      await mirror.suspend()
    }
  }

  /// What was copied to a leg whose flush failed then may be lost again: it is copied once more.
  @Test func aRecoveryWhoseFlushFailedIsDoneAgain() throws {
    try simulate { loop in
      let setting = try MirrorSetting(legs: 2, isKernel: false, on: loop)
      MirrorSetting.fail(setting.legs[1], .flush, times: 1)
      _ = try await setting.resumed()
      await loop.sleep(for: .seconds(10))
      #expect(await setting.state.hasPrefix("16 "))
      let copied = setting.legs[1].log.filter { $0.operation == .write }
      let sectors = copied.reduce(0 as UInt64) { $0 + ($1.sectors?.length.rawValue ?? 0) }
      #expect(sectors == 2 * 512, "\(sectors) sectors were copied")
      await setting.mirror.suspend()
    }
  }

  /// Whose flush it is that fails.
  enum Asker: CaseIterable, Sendable { case log, user }

  /// After a flush that failed once everything is as before, in time: regions are called clean, writes
  /// do without the log, and the leg counts as good.
  @Test(arguments: Asker.allCases)
  func afterAFailedFlushAllIsAsBefore(asker: Asker) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      let mirror = setting.mirror
      try await mirror.put("new", 40..<50)
      MirrorSetting.fail(setting.legs[1], .flush, times: 1)
      if asker == .user { try await mirror.flush() }
      await loop.sleep(for: .milliseconds(600))
      #expect(await setting.state == (asker == .log ? "15 AFA A" : "15 ADA A"))
      // What nothing had been written to since isn't concerned.
      #expect(setting.log.contents[1025] == 0xff)
      await loop.sleep(for: .seconds(2))
      #expect(await setting.state == "16 AAA A")
      #expect(setting.log.contents[1024] == 0xff)
      try await mirror.put("newer", 40..<50)
      let one = IOBuffer.zeroes.slice(0, 1)
      guard case .begun(let write) = mirror.mirror.beginWriteHere(44..<45, from: one, options: [])
      else { return #expect(Bool(false), "it waits for the log") }
      try await mirror.mirror.finishWriteHere(write, 44..<45, from: one, options: [])
      await loop.sleep(for: .seconds(1))
      #expect(setting.log.contents[1024] == 0xff)
      await mirror.suspend()
    }
  }

  /// Legs that fail though there is nothing to lose count as good again after a while.
  @Test(arguments: [1, 3])
  func aFailureThatCostsNothingIsForgotten(count: Int) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      for leg in setting.legs.prefix(count) { MirrorSetting.fail(leg, .flush, times: 1) }
      if count == 1 {
        try await setting.mirror.flush()
      } else {
        await #expect(throws: IOFailure.self) { try await setting.mirror.flush() }
      }
      #expect(await setting.state == (count == 1 ? "16 DAA A" : "16 DDD A"))
      await loop.sleep(for: .seconds(2))
      #expect(await setting.state == "16 AAA A")
      await setting.mirror.suspend()
    }
  }

  /// A region to which somebody writes all the time isn't idle when the flush fails, and not before
  /// everything else is in sync again: what it had lost is found all the same.
  @Test func aRegionInUseIsOutOfSyncAfterAFailedFlush() throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let log = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let mirror = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: log,
        parameters: MirrorParameters(regionSize: try #require(RegionSize(32))), on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("idle", 100..<110)
      try await mirror.put("busy", 40..<50)
      var plan = FaultPlan()
      plan.slowDown(60..<61, by: .seconds(10))
      legs[0].plan = plan
      let slow = Task(executorPreference: loop) { try await mirror.put("slow", 60..<61) }
      await loop.sleep(for: .milliseconds(10))
      // What the leg had in its cache is lost.
      legs[1].fill(from: 40, patterns(("lost", 40..<50)))
      plan = FaultPlan()
      plan.failFlushes(times: 1)
      legs[1].plan = plan
      try await mirror.flush()
      await loop.sleep(for: .seconds(5))
      try await slow.value
      await loop.sleep(for: .seconds(70))
      #expect(await mirror.status.line() == "2 leg0 leg1 16/16 1 AA 3 disk log A")
      #expect(legs[0].contents == legs[1].contents)
      await mirror.suspend()
    }
  }

  /// What is out of sync is on one leg alone: that others could be flushed is no help.
  @Test(arguments: Asker.allCases, [0, 1])
  func theLossOfTheOnlyCopyIsToldToTheUser(asker: Asker, holder: Int) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop) {
        $0.conduct.retryDelay = nil
      }.resumed()
      for leg in 0..<3 where leg != holder {
        MirrorSetting.fail(setting.legs[leg], .write, times: 1)
      }
      try await setting.mirror.put("new", 40..<50)
      MirrorSetting.fail(setting.legs[holder], .flush, times: 1)
      if asker == .log {
        // Another region is called clean: every leg has it, and the next flush goes well.
        try await setting.mirror.put("other", 100..<110)
        await loop.sleep(for: .milliseconds(600))
        #expect(setting.legs[holder].log.of(.flush).last?.failure != nil)
      }
      await #expect(throws: IOFailure.self) { try await setting.mirror.flush() }
      try await setting.mirror.flush()
      await setting.mirror.suspend()
    }
  }

  /// A leg that couldn't be flushed may have lost what was written while another one had missed a write
  /// already: it isn't trusted there after a restart.
  @Test(arguments: Asker.allCases)
  func aFailedFlushCountsInWhatIsOutOfSync(asker: Asker) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop) {
        $0.conduct.retryDelay = nil
      }.resumed()
      MirrorSetting.fail(setting.legs[2], .write, times: 1)
      try await setting.mirror.put("new", 40..<50)
      #expect(await setting.mirror.mirror.holders(of: 1) == [0, 1])
      MirrorSetting.fail(setting.legs[0], .flush, times: 1)
      if asker == .log {
        try await setting.mirror.put("other", 100..<110)
        await loop.sleep(for: .milliseconds(600))
      } else {
        try await setting.mirror.flush()
      }
      #expect(await setting.mirror.mirror.holders(of: 1) == [1])
      await setting.mirror.suspend()
    }
  }

  /// What hasn't been recovered yet is on the first leg alone: that the others are good is no help.
  @Test func aLossBeforeRecoveryIsToldToTheUser() throws {
    try simulate { loop in
      let setting = try MirrorSetting(isKernel: false, on: loop) {
        $0.conduct.recoveriesInFlight = 1
        $0.conduct.recoveryPiece = 32
      }
      var plan = FaultPlan()
      plan.slowDown(0..<32, by: .seconds(10))
      setting.legs[1].plan = plan
      try await setting.mirror.resume()
      try await setting.mirror.put("new", 100..<110)
      MirrorSetting.fail(setting.legs[0], .flush, times: 1)
      await #expect(throws: IOFailure.self) { try await setting.mirror.flush() }
      await setting.mirror.suspend()
    }
  }

  /// With a log that has failed, too, it is known in memory which legs have missed a write.
  @Test func aStaleLegIsKnownWithoutALog() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      MirrorSetting.fail(setting.legs[0], .write, 0..<32, times: 1)
      try await setting.mirror.put("new", 10..<20)
      MirrorSetting.fail(setting.log, .write)
      MirrorSetting.fail(setting.legs[0], .write, 32..<64, times: 1)
      try await setting.mirror.put("new", 40..<50)
      #expect(await setting.state == "14 DAA D")
      await loop.sleep(for: .seconds(3))
      #expect(await setting.state == "16 AAA D")
      for leg in setting.legs { #expect(leg.mismatch(40..<50, with: Pattern("new")) == nil) }
      await setting.mirror.suspend()
    }
  }
}

/// A disk of which one flush fails, and takes its time.
private final class LateTeller: ForwardingDevice {
  let underlying: any BlockDevice
  private let loop: IOLoop
  let losesNext = Locked(false)

  init(_ disk: SimulatedDisk, _ loop: IOLoop) { (underlying, self.loop) = (disk, loop) }

  func flush() async throws(IOFailure) {
    let isLost = losesNext.withLock { value in
      defer { value = false }
      return value
    }
    guard isLost else { return try await underlying.flush() }
    await loop.sleep(for: .milliseconds(100))
    throw IOFailure(.flush, name, errno: .ioError)
  }
}
