import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// Jobs without a source.
@Suite struct ZeroingTests {
  @Test func byCommandWhereAllCan() throws {
    try simulate { loop in
      let targets = (0..<3).map { SimulatedDisk("dst\($0)", sectorCount: 100, loop: loop) }
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.zero(targets.map { $0.region(5..<95) })
      #expect(result.isComplete && !result.readError && result.count == 90)
      for target in targets {
        // One command: nothing is moved, so that a sub-job is no limit.
        #expect(target.log.map(\.operation) == [.writeZeroes])
        #expect(target.isZero(5..<95))
        #expect(target.isUntouched(0..<5) && target.isUntouched(95..<100))
      }
    }
  }

  @Test func byWritingWhereOneCannot() throws {
    try simulate { loop in
      let able = SimulatedDisk("able", sectorCount: 100, loop: loop)
      let unable = SimulatedDisk("unable", sectorCount: 100, loop: loop, limits: .withoutZeroing)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.zero([able.region(0..<90), unable.region(10..<100)])
      #expect(result.isComplete && able.isZero(0..<90) && unable.isZero(10..<100))
      for disk in [able, unable] {
        #expect(disk.log.count == 12 && disk.log.of(.write).count == 12)
        #expect(disk.log.maximumInFlight <= 8)
      }
    }
  }

  @Test func aFailedCommandIsNotTriedByWriting() throws {
    try simulate { loop in
      let good = SimulatedDisk("good", sectorCount: 100, loop: loop)
      let bad = SimulatedDisk(
        "bad", sectorCount: 100, loop: loop, plan: .failing(.writeZeroes, 60..<61))
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.zero([good.region, bad.region])
      #expect(result.writeErrors == 0b10 && !result.readError)
      #expect(result.destinations[1].missing == .of(60..<100))
      #expect(bad.log.map(\.operation) == [.writeZeroes])
      #expect(good.isZero(0..<100))
    }
  }

  @Test func largeCommandsAreCutInto16MiB() throws {
    try simulate { loop in
      let target = NullDevice(sectorCount: 100_000, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.zero([target.region])
      #expect(result.isComplete)
      #expect(
        target.requests.map(\.sectors)
          == [0..<32768, 32768..<65536, 65536..<98304, 98304..<100_000])
    }
  }

  @Test func errorsOfWritingEndTheJobUnlessTheyAreIgnored() throws {
    try simulate { loop in
      for options in [[], .ignoreErrors] as [CopyOptions] {
        let target = SimulatedDisk(
          "dst", sectorCount: 200, loop: loop, limits: .withoutZeroing,
          plan: .failing(.write, 12..<13))
        let client = try KcopydClient(subJob: 8, on: loop)
        let result = try await client.zero([target.region], options: options)
        #expect(result.writeErrors == 0b1)
        #expect(result.ending == (options.isEmpty ? .stoppedByError : .finished))
        #expect(result.written(0).contains(199) == !options.isEmpty)
        #expect(result.destinations[0].failures.sectors == .of(12..<16))
      }
    }
  }

  @Test func nothingToZero() throws {
    try simulate { loop in
      let target = SimulatedDisk("dst", sectorCount: 100, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.zero([target.region(7..<7)])
      #expect(result.isComplete && result.count == 0 && target.log.isEmpty)
    }
  }
}
