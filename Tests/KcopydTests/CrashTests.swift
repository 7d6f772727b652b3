import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// A copy, flushes of all destinations, and a loss of power at every point of it.
@Suite struct CrashTests {
  private static let count = Sector(90)

  /// What has been promised when the power goes.
  private struct Run: Sendable {
    /// How many operations there were.
    let operations: Int
    /// By destination: the sectors that a completed flush covers.
    let durable: [RangeSet<Sector>]
    let wasCopied: Bool
  }

  private static func run(seed: UInt64, crashPoint: Int?, options: CopyOptions) throws -> Run {
    try simulate { loop in
      let power = CrashSwitch(crashPoint: crashPoint, seed: seed &+ UInt64(crashPoint ?? 0))
      let source = SimulatedDisk(
        "src", sectorCount: 120, seed: seed, loop: loop, crashSwitch: power)
      let targets = (0..<2).map { number in
        SimulatedDisk(
          "dst\(number)", sectorCount: 120, seed: seed &* 3 &+ UInt64(number), loop: loop,
          crashSwitch: power)
      }
      let starts = [Sector(5), 30]
      let client = try KcopydClient(subJob: 8, on: loop)
      let result = try await client.copy(
        from: IORegion(source, sector: 20, count: count),
        to: zip(targets, starts).map { IORegion($0, sector: $1, count: count) },
        options: options)
      await client.destroy()
      var durable: [RangeSet<Sector>] = []
      for index in targets.indices {
        let isFlushed = (try? await targets[index].flush()) != nil
        durable.append(isFlushed ? result.written(index) : RangeSet())
      }
      let operations = power.operations
      power.turnOff()
      power.turnOn()
      try ensure(source.isUntouched(0..<120), "the source was written")
      for (index, (target, start)) in zip(targets, starts).enumerated() {
        try check(target, from: source, start, durable[index])
      }
      return Run(operations: operations, durable: durable, wasCopied: result.isComplete)
    }
  }

  /// Every sector holds the new content or, unless that is durable, the old one.
  private static func check(
    _ target: SimulatedDisk, from source: SimulatedDisk, _ start: Sector,
    _ durable: RangeSet<Sector>
  ) throws {
    let region = start..<start + count
    try ensure(
      target.isUntouched(0..<region.lowerBound) && target.isUntouched(region.upperBound..<120),
      "sectors beside the region were written")
    guard let mismatch = target.mismatch(region, with: Pattern(source.name), from: 20) else {
      return
    }
    for range in mismatch.sectors.ranges {
      try ensure(target.isUntouched(range), "neither old nor new: \(mismatch)")
      let here = range.lowerBound - start..<range.upperBound - start
      try ensure(
        durable.intersection(RangeSet(here)).isEmpty, "lost after a flush: \(mismatch)")
    }
  }

  @Test(arguments: [[], .sequentialWrites, .dropFailedDestinations] as [CopyOptions])
  func atEveryOperation(options: CopyOptions) throws {
    for seed in UInt64(0)..<6 {
      let undisturbed = try Self.run(seed: seed, crashPoint: nil, options: options)
      let all = RangeSet(Sector(0)..<Self.count)
      try ensure(
        undisturbed.wasCopied && undisturbed.durable == [all, all], "the copy isn't complete")
      // Two times twelve writes, and two flushes.
      try ensure(undisturbed.operations == 26, "\(undisturbed.operations) operations")
      for crashPoint in 0...undisturbed.operations {
        let run = try Self.run(seed: seed, crashPoint: crashPoint, options: options)
        // The last flush is the last operation: without it nothing of that disk is sure.
        try ensure(
          (run.durable[1] == all) == (crashPoint == undisturbed.operations),
          "crash at \(crashPoint): another end than expected")
      }
    }
  }

  /// A disk that says it has flushed and hasn't is found out.
  @Test func aDiskThatIgnoresFlushes() throws {
    let found = try simulate { loop in
      let power = CrashSwitch(seed: 5)
      var plan = FaultPlan()
      plan.ignoresFlushes = true
      let source = SimulatedDisk("src", sectorCount: 120, loop: loop)
      let target = SimulatedDisk(
        "dst", sectorCount: 120, loop: loop, plan: plan, crashSwitch: power)
      let client = try KcopydClient(subJob: 8, on: loop)
      _ = try await client.copy(
        from: IORegion(source, sector: 20, count: Self.count),
        to: [IORegion(target, sector: 5, count: Self.count)])
      try await target.flush()
      power.turnOff()
      power.turnOn()
      do {
        try Self.check(target, from: source, 5, RangeSet(Sector(0)..<Self.count))
        return "nothing"
      } catch {
        return String(describing: error)
      }
    }
    #expect(found.hasPrefix("lost after a flush"))
  }
}
