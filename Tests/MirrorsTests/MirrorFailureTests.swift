import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import SystemPackage
import Testing

/// A mirror of simulated disks: regions of 32 sectors, 512 in all.
struct MirrorSetting {
  let legs: [SimulatedDisk]
  let log: SimulatedDisk
  let mirror: MirrorDevice
  let events = Locked<[MirrorEvent]>([])

  /// As the kernel does it, with or without the two features.
  init(
    legs count: Int = 3, _ features: Set<Feature> = [], isKernel: Bool = true, on loop: IOLoop,
    _ change: (inout MirrorParameters) -> Void = { _ in }
  ) throws {
    legs = (0..<count).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
    log = SimulatedDisk("log", sectorCount: 8, loop: loop)
    var parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
    parameters.handlesErrors = features.contains(.handleErrors)
    parameters.keepsLog = features.contains(.keepLog)
    if isKernel { parameters.conduct = .kernel }
    change(&parameters)
    mirror = try MirrorDevice(
      legs: legs.map { MirrorLeg($0) }, log: log, parameters: parameters, on: loop
    ) { [events] event in events.withLock { $0.append(event) } }
  }

  enum Feature { case handleErrors, keepLog }

  func resumed() async throws -> MirrorSetting {
    try await mirror.resume()
    await mirror.waitForRecovery()
    return self
  }

  /// From now on requests of a kind fail.
  static func fail(
    _ disk: SimulatedDisk, _ operation: IOFailure.Operation, _ sectors: Range<Sector> = 0..<512,
    times: Int? = nil
  ) {
    var plan = disk.plan
    if operation == .flush {
      plan.failFlushes(times: times)
    } else {
      plan.fail(operation, sectors, times: times)
    }
    disk.plan = plan
  }

  var line: String { get async { await mirror.status.line() } }

  /// The letters of legs and log, and how many regions are in sync.
  var state: String {
    get async {
      let status = await mirror.status
      return "\(status.regionsInSync) " + String(status.legs.map(\.letter)) + " "
        + String(status.log.letter)
    }
  }

  /// Starts a write that isn't waited for.
  func start(
    _ label: String, _ sectors: Range<Sector>, on loop: IOLoop
  ) -> Task<IOFailure?, any Error> {
    let mirror = mirror
    return Task(executorPreference: loop) { () async throws -> IOFailure? in
      do {
        try await mirror.put(label, sectors)
        return nil
      } catch let failure as IOFailure {
        return failure
      }
    }
  }
}

/// Writes that fail on a leg, or find a log that has failed: the results of dm-mirror.
@Suite struct MirrorFailureTests {
  /// Without `handle_errors`, and with `keep_log`, a write that reached one leg succeeds, and its
  /// region is out of sync, on the disk too.
  @Test(arguments: [[], [.handleErrors, .keepLog]] as [Set<MirrorSetting.Feature>])
  func aWriteOnOneLegIsEnough(_ features: Set<MirrorSetting.Feature>) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(features, on: loop).resumed()
      MirrorSetting.fail(setting.legs[2], .write)
      try await setting.mirror.put("new", 40..<50)
      #expect(await setting.state == "15 AAD A")
      #expect(setting.log.contents[1024] == 0xfd)
      #expect(setting.legs[0].mismatch(40..<50, with: Pattern("new")) == nil)
      #expect(setting.legs[1].mismatch(40..<50, with: Pattern("new")) == nil)
      // Writes to it go to the default leg alone from now on, others to all, marked ones too.
      for leg in setting.legs { leg.clearLog() }
      try await setting.mirror.put("newer", 40..<50)
      #expect(setting.legs.map { $0.count(of: .write) } == [1, 0, 0])
      try await setting.mirror.put("newer", 100..<110)
      #expect(setting.legs.map { $0.count(of: .write) } == [2, 1, 1])
      await setting.mirror.suspend()
      #expect(setting.log.contents[1024] == 0b1111_0101)
    }
  }

  /// A write that reached none fails, with each set of features.
  @Test(
    arguments: [[], [.handleErrors], [.handleErrors, .keepLog]] as [Set<MirrorSetting.Feature>])
  func aWriteOnNoLegFails(_ features: Set<MirrorSetting.Feature>) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(features, on: loop).resumed()
      for leg in setting.legs { MirrorSetting.fail(leg, .write) }
      await #expect(throws: IOFailure.self) { try await setting.mirror.put("new", 40..<50) }
      #expect(await setting.state == "15 DDD A")
      await setting.mirror.suspend()
    }
  }

  /// With `handle_errors` alone the write is held, until the mirror is suspended.
  @Test(arguments: [true, false])
  func aWriteIsHeld(_ isRequeuing: Bool) throws {
    try simulate { loop in
      let setting = try await MirrorSetting([.handleErrors], on: loop).resumed()
      MirrorSetting.fail(setting.legs[1], .write)
      let write = setting.start("new", 40..<50, on: loop)
      await loop.sleep(for: .seconds(10))
      #expect(await setting.mirror.status.held == 1)
      #expect(await setting.state == "15 ADA A")
      // So is one to a region that isn't in sync; others go on, to legs that are fine at least.
      let other = setting.start("new", 60..<61, on: loop)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.mirror.status.held == 2)
      await setting.mirror.suspend(requeuing: isRequeuing)
      for write in [write, other] {
        let failure = try #require(await write.value)
        #expect(failure.isRequeued == isRequeuing)
        #expect(isRequeuing || failure.errno == .ioError)
      }
      #expect(setting.log.contents[1024] == 0xfd)
    }
  }

  /// A log that has failed: ignored, or the write is held, or fails – and isn't done then.
  @Test(
    arguments: [[], [.handleErrors], [.handleErrors, .keepLog]] as [Set<MirrorSetting.Feature>])
  func aLogFails(_ features: Set<MirrorSetting.Feature>) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(features, on: loop).resumed()
      MirrorSetting.fail(setting.log, .write)
      for leg in setting.legs { leg.clearLog() }
      let write = setting.start("new", 40..<50, on: loop)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.state == "16 AAA D")
      #expect(await setting.mirror.status.held == (features == [.handleErrors] ? 1 : 0))
      await setting.mirror.suspend()
      let failure = try await write.value
      #expect((failure == nil) == features.isEmpty)
      let count = features.isEmpty ? 1 : 0
      #expect(setting.legs.map { $0.count(of: .write) } == [count, count, count])
      let failures = setting.events.value.filter { if case .logFailed = $0 { true } else { false } }
      #expect(failures.count == 1)
    }
  }

  /// A log that can't be flushed is marked so.
  @Test func aLogIsNotFlushed() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(on: loop).resumed()
      MirrorSetting.fail(setting.log, .flush, times: 1)
      try await setting.mirror.put("new", 40..<50)
      #expect(await setting.state == "16 AAA F")
      await setting.mirror.suspend()
    }
  }

  /// A flush that a leg fails: `D`, and what goes idle from then on isn't called in sync.
  @Test func aFlushFails() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(on: loop).resumed()
      MirrorSetting.fail(setting.legs[1], .flush, times: 1)
      try await setting.mirror.flush()
      #expect(await setting.state == "16 ADA A")
      try await setting.mirror.put("new", 40..<50)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.state == "15 ADA A")
      await setting.mirror.suspend()
      #expect(setting.log.contents[1024] == 0xfd)
    }
  }

  /// Once the log has failed, a flush that fails marks the leg and no more: nothing is called clean or
  /// out of sync for it.
  @Test func aFlushFailsAfterTheLog() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(on: loop).resumed()
      MirrorSetting.fail(setting.log, .write)
      try await setting.mirror.put("new", 40..<50)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.state == "16 AAA D")
      MirrorSetting.fail(setting.legs[1], .flush, times: 1)
      try await setting.mirror.flush()
      #expect(await setting.state == "16 ADA D")
      try await setting.mirror.put("new", 100..<110)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.state == "16 ADA D")
      await setting.mirror.suspend()
    }
  }

  /// A leg that can't be flushed for the log: `F`, and no bit is set any more.
  @Test func aFlushForTheLogFails() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(on: loop).resumed()
      MirrorSetting.fail(setting.legs[2], .flush, times: 1)
      try await setting.mirror.put("new", 40..<50)
      await loop.sleep(for: .seconds(1))
      #expect(await setting.state == "16 AAF A")
      await setting.mirror.suspend()
      #expect(Array(setting.log.contents[1024..<1026]) == [0, 0])
    }
  }

  /// A discard that a leg fails isn't supported; no leg is marked.
  @Test func aDiscardFails() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(on: loop).resumed()
      MirrorSetting.fail(setting.legs[1], .discard)
      await #expect {
        try await setting.mirror.discard(32..<64)
      } throws: {
        ($0 as? IOFailure)?.errno == .notSupported
      }
      #expect(await setting.state == "16 AAA A")
      await setting.mirror.suspend()
    }
  }

  /// The first error of a kind on a leg is signalled, with `handle_errors`; without nothing is.
  @Test(arguments: [[], [.handleErrors, .keepLog]] as [Set<MirrorSetting.Feature>])
  func theFirstErrorOfAKindIsSignalled(_ features: Set<MirrorSetting.Feature>) throws {
    try simulate { loop in
      let setting = try await MirrorSetting(features, on: loop).resumed()
      #expect(setting.events.value == [.inSync])
      MirrorSetting.fail(setting.legs[1], .write)
      MirrorSetting.fail(setting.legs[0], .read)
      for sector in [0, 40, 80] as [Sector] {
        try await setting.mirror.put("new", sector..<sector + 1)
        _ = try await setting.mirror.contents(200..<201)
      }
      let failed = setting.events.value.compactMap { event -> Int? in
        if case .legFailed(let leg, _) = event { leg } else { nil }
      }
      #expect(failed == (features.isEmpty ? [] : [1, 0]))
      #expect(await setting.state == "13 RDA A")
      await setting.mirror.suspend()
    }
  }
}
