import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// What becomes of recovery and reading when legs fail, and which leg is the default one.
@Suite struct MirrorRecoveryTests {
  /// What can't be copied is out of sync with `handle_errors`, and not tried again; without, it
  /// counts as in sync in memory, but not on the disk.
  @Test(arguments: [true, false], [IOFailure.Operation.read, .write])
  func aRegionIsNotRecovered(_ handlesErrors: Bool, _ operation: IOFailure.Operation) throws {
    try simulate { loop in
      let setting = try MirrorSetting(handlesErrors ? [.handleErrors] : [], on: loop)
      MirrorSetting.fail(setting.legs[operation == .read ? 0 : 1], operation, 40..<41)
      _ = try await setting.resumed()
      let letters = operation == .read ? "SAA" : "ASA"
      // Once all count as in sync everything is forgiven.
      #expect(await setting.state == (handlesErrors ? "15 \(letters) A" : "16 AAA A"))
      #expect(setting.log.contents[1024] == 0xfd)
      #expect(setting.legs[1].mismatch(64..<512, with: Pattern("leg0")) == nil)
      let count = setting.legs[0].count(of: .read)
      await loop.sleep(for: .seconds(100))
      #expect(setting.legs[0].count(of: .read) == count)
      #expect(setting.events.value.contains(.inSync) == !handlesErrors)
      await setting.mirror.suspend()
      #expect(setting.log.contents[1024] == 0xfd)
      // The next resume tries again.
      for leg in setting.legs { leg.plan = FaultPlan() }
      _ = try await setting.resumed()
      #expect(await setting.state.hasPrefix("16 "))
      await setting.mirror.suspend()
      for leg in setting.legs { #expect(leg.contents == setting.legs[0].contents) }
    }
  }

  /// By default it is remembered, and tried again until it works.
  @Test(arguments: [true, false])
  func aRegionIsTriedAgain(_ handlesErrors: Bool) throws {
    try simulate { loop in
      let features: Set<MirrorSetting.Feature> = handlesErrors ? [.handleErrors] : []
      let setting = try MirrorSetting(features, isKernel: false, on: loop)
      MirrorSetting.fail(setting.legs[1], .write, 40..<41, times: 3)
      _ = try await setting.resumed()
      #expect(await setting.state.hasSuffix(" ASA A"))
      #expect(await setting.mirror.status.regionsInSync < 16)
      await loop.sleep(for: .seconds(10))
      #expect(await setting.state == "16 AAA A")
      await setting.mirror.suspend()
      for leg in setting.legs { #expect(leg.contents == setting.legs[0].contents) }
    }
  }

  /// A write to a region that is being recovered waits, and is on all legs then.
  @Test(arguments: [true, false])
  func writesWaitForRecovery(_ isKernel: Bool) throws {
    try simulate { loop in
      let setting = try MirrorSetting(isKernel: isKernel, on: loop)
      var plan = FaultPlan()
      plan.slowDown(0..<32, by: .seconds(5))
      setting.legs[1].plan = plan
      try await setting.mirror.resume()
      await loop.sleep(for: .seconds(1))
      let start = loop.now
      try await setting.mirror.put("new", 10..<20)
      #expect(start.duration(to: loop.now) > .seconds(3))
      await setting.mirror.waitForRecovery()
      await setting.mirror.suspend()
      for leg in setting.legs {
        #expect(leg.mismatch(10..<20, with: Pattern("new")) == nil)
        #expect(leg.mismatch(20..<512, with: Pattern("leg0")) == nil)
      }
    }
  }

  /// Neighbours with different legs to be copied from, one of which can't be: the other is
  /// recovered all the same, and what fails isn't tried without a pause.
  @Test(arguments: [1, 4])
  func oneRegionDoesNotKeepAnotherFromRecovery(_ recoveriesInFlight: Int) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(legs: 2, isKernel: false, on: loop) { parameters in
        parameters.conduct.recoveriesInFlight = recoveriesInFlight
      }.resumed()
      // The first region is on leg 0 alone, for good; the second one on leg 1 alone.
      MirrorSetting.fail(setting.legs[1], .write, 0..<32)
      MirrorSetting.fail(setting.legs[0], .write, 32..<64, times: 1)
      async let first: Void = setting.mirror.put("one", 0..<10)
      async let second: Void = setting.mirror.put("two", 40..<50)
      _ = try? await (first, second)
      #expect(await setting.state == "14 DD A")
      for leg in setting.legs { leg.clearLog() }
      await loop.sleep(for: .milliseconds(2500))
      #expect(await setting.state == "15 DD A")
      #expect(setting.legs[0].mismatch(40..<50, with: Pattern("two")) == nil)
      #expect(setting.legs[1].count(of: .write) < 10)
      setting.legs[1].plan = FaultPlan()
      await loop.sleep(for: .seconds(60))
      #expect(await setting.state == "16 AA A")
      await setting.mirror.suspend()
      #expect(setting.legs[0].contents == setting.legs[1].contents)
    }
  }

  /// By default a flush that failed once is made up for: what was written before, and has been idle for
  /// a short time only, is copied from a leg that was flushed; from then on regions stay in sync.
  @Test func aFailedFlushIsMadeUpFor() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      await loop.sleep(for: .seconds(1))
      try await setting.mirror.put("new", 40..<50)
      MirrorSetting.fail(setting.legs[0], .flush, times: 1)
      try await setting.mirror.flush()
      #expect(await setting.state == "15 DAA A")
      // What the leg says is written isn't, as can be after a failed flush.
      setting.legs[0].fill(from: 40, Pattern("leg0").bytes(40..<50))
      await loop.sleep(for: .seconds(10))
      #expect(await setting.state == "16 AAA A")
      try await setting.mirror.put("newer", 100..<110)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.state == "16 AAA A")
      #expect(setting.log.contents[1024] == 0xff)
      await setting.mirror.suspend()
      for leg in setting.legs { #expect(leg.mismatch(40..<50, with: Pattern("new")) == nil) }
    }
  }

  /// By default a discard marks its regions before, durably, as a write does; one that a leg fails
  /// leaves them out of sync, until they are copied.
  @Test func discardsAreMarked() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      await loop.sleep(for: .seconds(1))
      for disk in setting.legs + [setting.log] { disk.clearLog() }
      try await setting.mirror.discard(0..<64)
      let marked = try #require(setting.log.log.of(.flush).first?.end)
      for leg in setting.legs {
        let discard = try #require(leg.log.of(.discard).first)
        #expect(marked <= discard.start)
      }
      MirrorSetting.fail(setting.legs[1], .discard)
      await #expect(throws: IOFailure.self) { try await setting.mirror.discard(96..<128) }
      #expect(await setting.state == "15 AAA A")
      await loop.sleep(for: .seconds(10))
      #expect(await setting.state == "16 AAA A")
      await setting.mirror.suspend()
      #expect(setting.log.contents[1024] == 0xff)
      let expected = Array(setting.legs[0].contents[(96 * 512)..<(128 * 512)])
      for leg in setting.legs { #expect(leg.mismatch(from: 96, with: expected) == nil) }
    }
  }

  // MARK: The default leg

  /// In sync the default leg is given up for the first good one; out of sync only with `keep_log`;
  /// without `handle_errors` never.
  @Test(
    arguments: [[], [.handleErrors], [.handleErrors, .keepLog]] as [Set<MirrorSetting.Feature>])
  func theDefaultLegFails(_ features: Set<MirrorSetting.Feature>) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(features, on: loop).resumed()
      MirrorSetting.fail(setting.legs[0], .read)
      MirrorSetting.fail(setting.legs[1], .read)
      #expect(try await setting.mirror.contents(0..<4) == Pattern("leg0").bytes(0..<4))
      // Downwards, in a circle: from 0 to 2. Leg 1 is never asked, unless it is the new default.
      #expect(await setting.state == (features.isEmpty ? "16 RAA A" : "16 RRA A"))
      #expect(await setting.mirror.status.defaultLeg == (features.isEmpty ? 0 : 2))
      await setting.mirror.suspend()
      let other = try MirrorSetting(features, on: loop)
      MirrorSetting.fail(other.legs[0], .read, 0..<32)
      _ = try await other.resumed()
      #expect(await other.mirror.status.defaultLeg == (features.contains(.keepLog) ? 1 : 0))
      await other.mirror.suspend()
    }
  }

  /// Out of sync only the default leg is read; without it the read fails.
  @Test func outOfSyncOnlyTheDefaultLegIsRead() throws {
    try simulate { loop in
      let setting = try MirrorSetting([.handleErrors], on: loop)
      MirrorSetting.fail(setting.legs[1], .write)
      _ = try await setting.resumed()
      #expect(await setting.state == "0 ASA A")
      for leg in setting.legs { leg.clearLog() }
      #expect(try await setting.mirror.contents(8..<12) == Pattern("leg0").bytes(8..<12))
      #expect(setting.legs.map { $0.count(of: .read) } == [1, 0, 0])
      MirrorSetting.fail(setting.legs[0], .read)
      for _ in 0..<2 {
        await #expect(throws: IOFailure.self) { try await setting.mirror.contents(8..<12) }
      }
      #expect(setting.legs.map { $0.count(of: .read) } == [2, 0, 0])
      #expect(await setting.state == "0 RSA A")
      await setting.mirror.suspend()
    }
  }

  /// The letter is that of the worst error: F, D, S, R.
  @Test func theWorstErrorIsShown() throws {
    try simulate { loop in
      let setting = try MirrorSetting(legs: 4, [.handleErrors, .keepLog], on: loop)
      MirrorSetting.fail(setting.legs[1], .write, 0..<32, times: 1)
      _ = try await setting.resumed()
      #expect(await setting.state == "15 ASAA A")
      let leg = setting.legs[2]
      MirrorSetting.fail(setting.legs[0], .read)
      MirrorSetting.fail(leg, .read, times: 1)
      #expect(try await setting.mirror.contents(40..<41) == Pattern("leg0").bytes(40..<41))
      #expect(await setting.state == "15 RSRA A")
      MirrorSetting.fail(leg, .write, 64..<96, times: 1)
      try await setting.mirror.put("new", 64..<65)
      #expect(await setting.state == "14 RSDA A")
      MirrorSetting.fail(leg, .flush, times: 1)
      try await setting.mirror.put("new", 100..<101)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.state == "14 RSFA A")
      await setting.mirror.suspend()
    }
  }

  /// A leg that couldn't be mended stays marked, but the region is the same on all legs as before:
  /// its bit is set again.
  @Test func aRegionThatWasNotMendedIsClean() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      await loop.sleep(for: .seconds(2))
      MirrorSetting.fail(setting.legs[0], .read, 40..<41)
      MirrorSetting.fail(setting.legs[0], .write, 40..<41)
      #expect(try await setting.mirror.contents(32..<64) == Pattern("leg0").bytes(32..<64))
      await loop.sleep(for: .seconds(5))
      #expect(await setting.state == "16 RAA A")
      #expect(setting.log.contents[1024] == 0xff)
      await setting.mirror.suspend()
    }
  }
}
