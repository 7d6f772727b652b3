import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// Throttles at work, in virtual time.
@Suite struct ThrottleTests {
  /// Two devices whose requests take a millisecond each, and a throttled client between them.
  private struct Setting {
    let loop: IOLoop
    let source: NullDevice
    let target: NullDevice
    let client: KcopydClient

    init(_ loop: IOLoop, _ throttle: Throttle?, subJob: Sector = 1024) throws {
      self.loop = loop
      source = NullDevice(sectorCount: 1_000_000_000, loop: loop)
      target = NullDevice(sectorCount: 1_000_000_000, loop: loop)
      client = try KcopydClient(subJob: subJob, throttle: throttle, on: loop)
    }

    /// How long a copy of that many sectors takes.
    @discardableResult
    func copy(_ count: Sector) async throws -> Duration {
      let start = loop.now
      let sectors = Sector(0)..<count
      let result = try await client.copy(
        from: source.region(sectors), to: [target.region(sectors)])
      #expect(result.isComplete)
      return start.duration(to: loop.now)
    }

    /// In how many nanoseconds there was I/O outstanding.
    var busy: Int64 {
      let starts = (source.requests + target.requests).map(\.start.nanoseconds).sorted()
      var busy: Int64 = 0
      var end: Int64 = 0
      for start in starts {
        busy += start + 1_000_000 - max(start, end)
        end = start + 1_000_000
      }
      return busy
    }
  }

  // MARK: Part of the time

  @Test func withoutAThrottleNothingWaits() throws {
    try simulate { loop in
      for throttle in [nil, Throttle(), Throttle(percent: 100)] {
        let setting = try Setting(loop, throttle, subJob: 8)
        // 2000 segments, eight at a time, two milliseconds each.
        #expect(try await setting.copy(16_000) == .milliseconds(500))
      }
    }
  }

  @Test(arguments: [20, 50, 80])
  func aPartOfTheTime(percent: Int) throws {
    try simulate { loop in
      let setting = try Setting(loop, Throttle(percent: percent), subJob: 8)
      let took = try await setting.copy(64_000)
      // Two seconds of work. A little is lost whenever old times are shifted out of the window,
      // since what had been saved up by sleeping is halved as well.
      let expected = Duration.seconds(2) * 100 / percent
      #expect(took >= expected && took <= expected * 11 / 10)
      #expect(setting.busy == 2_000_000_000)
    }
  }

  /// A start is delayed by at most ten sleeps.
  @Test func noPercentDoesNotStopACopy() throws {
    try simulate { loop in
      let setting = try Setting(loop, Throttle(percent: 0), subJob: 8)
      // The first read is free, the write waits the whole second.
      #expect(try await setting.copy(8) == .milliseconds(1002))
      let again = try await setting.copy(8)
      #expect(again > .milliseconds(1002) && again <= .milliseconds(2002))
      let more = try await setting.copy(128)
      #expect(more <= .milliseconds(4004))
    }
  }

  // MARK: Bytes

  @Test func bytesPerSecondAreKeptToTheSubJob() throws {
    try simulate { loop in
      let rate = UInt64(4 << 20)
      let setting = try Setting(loop, Throttle(bytesPerSecond: rate))
      // 64 MiB in sub-jobs of 512 KiB.
      let took = try await setting.copy(131_072)
      // The last sub-job isn't waited for any more.
      let expected = Duration.seconds(16) - .milliseconds(125)
      #expect(took >= expected && took <= expected + .milliseconds(5))
      let subJob = Int64(512 << 10)
      var sum: Int64 = 0
      for request in setting.source.requests {
        let allowed = request.start.nanoseconds * Int64(rate) / 1_000_000_000
        // Everything before this one has been paid for.
        #expect(sum <= allowed && sum + subJob >= allowed)
        sum += Int64(request.sectors.length.bytes)
      }
      #expect(sum == 64 << 20)
    }
  }

  @Test func zerosCountAsWell() throws {
    try simulate { loop in
      let setting = try Setting(loop, Throttle(bytesPerSecond: 16 << 20))
      let start = loop.now
      let result = try await setting.client.zero([setting.target.region(0..<131_072)])
      #expect(result.isComplete)
      // Commands of 16 MiB: the fourth starts after three seconds.
      let took = start.duration(to: loop.now)
      #expect(took >= .seconds(3) && took <= .milliseconds(3010))
    }
  }

  @Test func clientsOfOneThrottleShareIt() throws {
    try simulate { loop in
      let rate = UInt64(8 << 20)
      let throttle = Throttle(bytesPerSecond: rate)
      let both = [try Setting(loop, throttle), try Setting(loop, throttle)]
      let alone = try Setting(loop, Throttle(bytesPerSecond: rate))
      let times = try await withThrowingTaskGroup(of: (Int, Duration).self) { group in
        for (number, setting) in (both + [alone]).enumerated() {
          group.addTask { (number, try await setting.copy(32_768)) }
        }
        return try await group.reduce(into: [0: Duration.zero]) { $0[$1.0] = $1.1 }
      }
      // 16 MiB each: 4 seconds for the two together, 2 for the other one.
      let shared = try #require([times[0], times[1]].compactMap { $0 }.max())
      #expect(shared >= .milliseconds(3900) && shared <= .milliseconds(4010))
      let own = try #require(times[2])
      #expect(own >= .milliseconds(1900) && own <= .milliseconds(2010))
    }
  }

  // MARK: Changes

  @Test func aRemovedLimitTakesEffectWithin100Milliseconds() throws {
    try simulate { loop in
      let throttle = Throttle(bytesPerSecond: 1)
      let setting = try Setting(loop, throttle)
      let task = Task(executorPreference: loop) { try await setting.copy(16_384) }
      await loop.sleep(for: .seconds(100))
      #expect(setting.source.requests.count == 1)
      throttle.bytesPerSecond = nil
      let took = try await task.value - .seconds(100)
      #expect(took <= .milliseconds(110))
    }
  }

  @Test func raisingAndLoweringTakeEffectWithin100Milliseconds() throws {
    try simulate { loop in
      let throttle = Throttle()
      let setting = try Setting(loop, throttle)
      let task = Task(executorPreference: loop) {
        try await setting.client.copy(
          from: setting.source.region, to: [setting.target.region])
      }
      func bytes(in duration: Duration) async -> UInt64 {
        let before = setting.source.requests.count
        await loop.sleep(for: duration)
        return UInt64(setting.source.requests.count - before) * (512 << 10)
      }
      #expect(await bytes(in: .milliseconds(20)) > 32 << 20)
      throttle.bytesPerSecond = 4 << 20
      // One second's worth and the first sub-job.
      #expect((4 << 20...9 << 19).contains(await bytes(in: .seconds(1))))
      throttle.bytesPerSecond = 64 << 20
      let faster = await bytes(in: .milliseconds(1100))
      #expect(faster >= 64 << 20 && faster <= 71 << 20)
      throttle.bytesPerSecond = nil
      await loop.sleep(for: .milliseconds(100))
      #expect(await bytes(in: .milliseconds(20)) > 32 << 20)
      throttle.percent = 10
      let slow = await bytes(in: .seconds(2))
      #expect(slow < 2 * (2 << 30) / 10 * 2)
      throttle.percent = 100
      await loop.sleep(for: .milliseconds(100))
      #expect(await bytes(in: .milliseconds(20)) > 32 << 20)
      task.cancel()
      #expect(try await task.value.ending == .cancelled)
      #expect(throttle.percent == 100 && throttle.bytesPerSecond == nil)
    }
  }

  @Test func cancellationIsNotHeldUp() throws {
    try simulate { loop in
      for throttle in [Throttle(bytesPerSecond: 1), Throttle(percent: 0)] {
        let setting = try Setting(loop, throttle)
        let end = Locked<(LoopInstant, CopyResult.Ending)?>(nil)
        let handle = try setting.client.copy(
          from: setting.source.region, to: [setting.target.region]
        ) { result in
          end.withLock { $0 = (loop.now, result.ending) }
        }
        await loop.sleep(for: .milliseconds(2050))
        let time = loop.now
        handle.cancel()
        await setting.client.destroy()
        let (ended, ending) = try #require(end.value)
        #expect(ending == .cancelled && time.duration(to: ended) <= .milliseconds(110))
      }
    }
  }

  /// What fails elsewhere ends those that still wait.
  @Test func anErrorIsNotHeldUp() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 200, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 200, loop: loop, plan: .failing(.write, 0..<1))
      let client = try KcopydClient(
        subJob: 8, throttle: Throttle(bytesPerSecond: 1), on: loop)
      let result = try await client.copy(from: source.region, to: [target.region])
      #expect(result.ending == .stoppedByError)
      #expect(loop.now.nanoseconds < 120_000_000)
    }
  }
}
