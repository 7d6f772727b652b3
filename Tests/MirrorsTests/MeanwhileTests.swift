import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import SystemPackage
import Testing

/// What becomes something else while a request is under way.
@Suite struct MeanwhileTests {
  /// While a write to two regions waits for the log, one of them comes to be trusted on another leg
  /// than the other: each part goes to its own.
  @Test func aWriteThatWaitsForTheLogGoesToTheRightLegForEachRegion() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop) {
        $0.conduct.retryDelay = nil
      }.resumed()
      // Both on legs 0 and 1, the first one then on leg 0 alone.
      MirrorSetting.fail(setting.legs[2], .write, times: 1)
      try await setting.mirror.put("old", 40..<80)
      try await setting.mirror.put("newer", 40..<50)
      setting.log.plan.slowDown(0..<8, by: .milliseconds(50))
      let other = setting.start("other", 320..<322, on: loop)
      await loop.sleep(for: .milliseconds(10))
      let write = setting.start("new", 60..<70, on: loop)
      MirrorSetting.fail(setting.legs[0], .read, 76..<80, times: 1)
      #expect(try await setting.mirror.contents(76..<80) == patterns(("old", 76..<80)))
      #expect(await setting.state == "14 RAD A")
      #expect(setting.legs[0].mismatch(60..<70, with: Pattern("old")) == nil, "it hasn't waited")
      #expect(try await other.value == nil)
      #expect(try await write.value == nil)
      let expected = patterns(("newer", 40..<50), ("old", 50..<60), ("new", 60..<70))
      #expect(try await setting.mirror.contents(40..<70) == expected)
      #expect(setting.legs[0].mismatch(60..<64, with: Pattern("new")) == nil)
      #expect(setting.legs[0].mismatch(64..<70, with: Pattern("old")) == nil)
      #expect(setting.legs[1].mismatch(60..<64, with: Pattern("old")) == nil)
      #expect(setting.legs[1].mismatch(64..<70, with: Pattern("new")) == nil)
      await setting.mirror.suspend()
    }
  }

  /// A read that had nothing to wait for fails, and meanwhile a write has reached that leg alone: no
  /// other one is asked.
  @Test func aReadThatFailsAsksNoLegThatMissedAWriteMeanwhile() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop) {
        $0.conduct.retryDelay = nil
      }.resumed()
      try await setting.mirror.put("old", 32..<64)
      var plan = FaultPlan()
      plan.slowDown(40..<44, by: .milliseconds(50))
      plan.fail(.read, 40..<44)
      setting.legs[0].plan = plan
      let read = Task(executorPreference: loop) { try await setting.mirror.contents(40..<64) }
      await loop.sleep(for: .milliseconds(10))
      // The second one isn't on leg 1, which is good.
      MirrorSetting.fail(setting.legs[2], .write, times: 1)
      try await setting.mirror.put("new", 60..<64)
      try await setting.mirror.put("newer", 60..<64)
      #expect(await setting.state == "15 AAD A")
      await #expect(throws: IOFailure.self) { _ = try await read.value }
      await setting.mirror.suspend()
    }
  }

  /// A leg that fails on the spot: another one is read, and the first one mended.
  @Test func aReadThatFailsOnTheSpotIsDoneByAnotherLeg() throws {
    try simulate { loop in
      let bad = FailingOnce(MemoryDevice(sectorCount: 512))
      let events = Locked<[MirrorEvent]>([])
      let mirror = try MirrorDevice(
        legs: [MirrorLeg(bad), MirrorLeg(MemoryDevice(sectorCount: 512))], log: nil,
        parameters: MirrorParameters(regionSize: try #require(RegionSize(32))), on: loop
      ) { event in events.withLock { $0.append(event) } }
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("new", 40..<50)
      bad.failsNext.withLock { $0 = true }
      #expect(try await mirror.contents(40..<50) == patterns(("new", 40..<50)))
      await loop.sleep(for: .milliseconds(100))
      #expect(events.value.last == .repaired(0, 40..<50))
      let statistics = await mirror.legStatistics
      #expect(statistics.map(\.[.read].errors) == [1, 0])
      #expect(statistics.map(\.[.read].operations) == [0, 1])
      #expect(statistics.map(\.inFlight) == [0, 0])
      await mirror.suspend()
    }
  }
}

/// A disk of which one read on the spot fails.
private final class FailingOnce: ForwardingDevice {
  let underlying: any BlockDevice
  let failsNext = Locked(false)

  init(_ underlying: any BlockDevice) { self.underlying = underlying }

  func readNow(_ sectors: Range<Sector>, into buffer: IOBuffer) throws(IOFailure) -> Bool {
    let fails = failsNext.withLock { value in
      defer { value = false }
      return value
    }
    if fails { throw IOFailure(.read, name, sectors, errno: .ioError) }
    return try underlying.readNow(sectors, into: buffer)
  }
}
