import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// What went wrong once.
@Suite struct MirrorRegressionTests {
  /// Two legs with the same contents, and a log that says so.
  private struct Disks: Sendable {
    let legs: [SimulatedDisk]
    let log: SimulatedDisk
    var parameters: MirrorParameters

    init(_ loop: IOLoop) throws {
      legs = (0..<2).map {
        SimulatedDisk("leg\($0)", sectorCount: 64, content: .pattern("old"), loop: loop)
      }
      log = SimulatedDisk("log", sectorCount: 8, content: .zeroes, loop: loop)
      parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
    }

    func mirror(on loop: IOLoop) throws -> MirrorDevice {
      try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: log, parameters: parameters, on: loop)
    }

    func fail(_ leg: Int, _ body: (inout FaultPlan) -> Void) {
      var plan = FaultPlan()
      body(&plan)
      legs[leg].plan = plan
    }
  }

  /// Regions that fall out of sync because leg 0 couldn't be flushed were looked for on leg 0.
  @Test func aFailedFlushOfTheFirstLegLeavesTheOthersReadable() throws {
    try simulate { loop in
      var disks = try Disks(loop)
      disks.parameters.conduct.retryDelay = nil
      let mirror = try disks.mirror(on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      disks.fail(0) { $0.failFlushes() }
      try await mirror.flush()
      try await mirror.put("new", 4..<8)
      #expect(try await mirror.contents(4..<8) == patterns(("new", 4..<8)))
      await mirror.suspend()
    }
  }

  /// Recovered regions were put out of sync again at once after any flush had failed.
  @Test func afterAFailedFlushItComesIntoSyncAgain() throws {
    try simulate { loop in
      let disks = try Disks(loop)
      let mirror = try disks.mirror(on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("new", 4..<8)
      disks.fail(1) { $0.failFlushes(times: 1) }
      try await mirror.flush()
      #expect(await mirror.status.regionsInSync == 1)
      await loop.sleep(for: .seconds(5))
      #expect(await mirror.status.regionsInSync == 2)
      await mirror.suspend()
      #expect(disks.legs[0].contents == disks.legs[1].contents)
    }
  }

  /// A read that fails looks at the other legs if these have become the same meanwhile.
  @Test func aReadThatFailsAfterRecoveryIsDoneByAnotherLeg() throws {
    try simulate { loop in
      let disks = try Disks(loop)
      let mirror = try disks.mirror(on: loop)
      try await mirror.resume()
      // Recovery has read leg 0 by then, or is about to.
      await loop.sleep(for: .microseconds(10))
      #expect(await mirror.status.regionsInSync == 0)
      disks.fail(0) { plan in
        plan.fail(.read, 4..<8)
        plan.slowDown(4..<8, by: .milliseconds(50))
      }
      #expect(try await mirror.contents(4..<8) == patterns(("old", 4..<8)))
      await mirror.suspend()
    }
  }

  /// A read of several regions that fails: the leg on which the first one is to be found then was taken
  /// for all of them, though it had missed a write to another one.
  @Test func aReadThatFailsIsDoneFromTheRightLegForEachRegion() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop) {
        $0.conduct.retryDelay = nil
      }.resumed()
      MirrorSetting.fail(setting.legs[2], .write, times: 1)
      try await setting.mirror.put("new", 40..<80)
      #expect(await setting.state == "14 AAD A")
      // On leg 0 alone.
      try await setting.mirror.put("newer", 70..<80)
      MirrorSetting.fail(setting.legs[0], .read, 40..<41, times: 1)
      let expected = patterns(("new", 40..<70), ("newer", 70..<80))
      #expect(try await setting.mirror.contents(40..<80) == expected)
      #expect(await setting.state == "14 RAD A")
      await setting.mirror.suspend()
    }
  }

  /// A discard that only one leg refuses takes nothing from the others.
  @Test func afterAFailedDiscardEveryLegIsReadable() throws {
    try simulate { loop in
      var disks = try Disks(loop)
      disks.parameters.conduct.retryDelay = nil
      let mirror = try disks.mirror(on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      disks.fail(0) { plan in
        plan.fail(.discard, 0..<64)
        plan.fail(.read, 0..<64)
      }
      await #expect(throws: IOFailure.self) { try await mirror.discard(0..<4) }
      #expect(try await mirror.contents(4..<8) == patterns(("old", 4..<8)))
      await mirror.suspend()
    }
  }

  /// The kernel's conduct calls a region in sync that couldn't be recovered – in memory. The log
  /// said so, too.
  @Test func aFailedRecoveryIsNotCleanInTheLog() throws {
    try simulate { loop in
      var disks = try Disks(loop)
      disks.parameters.conduct = .kernel
      let mirror = try disks.mirror(on: loop)
      disks.fail(1) { $0.fail(.write, 40..<41) }
      try await mirror.resume()
      await mirror.waitForRecovery()
      #expect(await mirror.status.regionsInSync == 2)
      await mirror.suspend()
      #expect(try await MirrorLog(of: disks.log).dirtyRuns() == [1..<2])
    }
  }

  /// Cleaning went on after the end of a mirror whose last log write had failed: into a log that
  /// another one may have taken over.
  @Test func nothingIsWrittenAfterSuspending() throws {
    try simulate { loop in
      let disks = try Disks(loop)
      let mirror = try disks.mirror(on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("new", 4..<8)
      var plan = FaultPlan()
      plan.fail(.write, 0..<8, times: 1)
      disks.log.plan = plan
      await mirror.suspend()
      let writes = disks.log.count(of: .write)
      await loop.sleep(for: .seconds(5))
      #expect(disks.log.count(of: .write) == writes)
    }
  }
}
