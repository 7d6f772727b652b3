import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// A small copy that is awaited on the loop is done without a job, one with a notification is not:
/// both must come to the same.
@Suite struct SmallCopyTests {
  /// What a copy came to, in comparable form.
  private struct Outcome: Equatable {
    let ending: CopyResult.Ending
    let readError: Bool
    let writeErrors: UInt64
    let failedReads: RangeSet<Sector>
    let failedWrites: RangeSet<Sector>
    let missing: RangeSet<Sector>
    let progress: CopyProgress.Snapshot
    let reads: [Range<Sector>?]
    let writes: [Range<Sector>?]
    let isIntact: Bool
  }

  private static func outcome(
    _ loop: IOLoop, reads: FaultPlan, writes: FaultPlan, asJob: Bool
  ) async throws -> Outcome {
    let source = SimulatedDisk("src", sectorCount: 64, seed: 7, loop: loop, plan: reads)
    let target = SimulatedDisk("dst", sectorCount: 64, seed: 8, loop: loop, plan: writes)
    let client = try KcopydClient(subJob: 16, on: loop)
    let progress = CopyProgress(destinations: 1)
    let from = source.region(16..<24)
    let to = [target.region(32..<40)]
    let result: CopyResult
    if asJob {
      result = try await withCheckedThrowingContinuation { continuation in
        do {
          try client.copy(from: from, to: to, progress: progress) {
            continuation.resume(returning: $0)
          }
        } catch {
          continuation.resume(throwing: error)
        }
      }
    } else {
      result = try await client.copy(from: from, to: to, progress: progress)
    }
    // Finds pages that weren't given back.
    await client.destroy()
    return Outcome(
      ending: result.ending, readError: result.readError, writeErrors: result.writeErrors,
      failedReads: result.readFailures.sectors,
      failedWrites: result.destinations[0].failures.sectors,
      missing: result.destinations[0].missing, progress: progress.snapshot,
      reads: source.log.of(.read).map(\.sectors), writes: target.log.of(.write).map(\.sectors),
      isIntact: target.holds(source, from: 16, at: 32..<40))
  }

  @Test(arguments: [
    (FaultPlan(), FaultPlan()), (.failing(.read, 19..<20), FaultPlan()),
    (FaultPlan(), .failing(.write, 35..<36)), (.failing(.read, 16..<24), .failing(.write, 32..<33)),
  ])
  func comesToTheSameAsAJob(reads: FaultPlan, writes: FaultPlan) throws {
    try simulate { loop in
      let small = try await Self.outcome(loop, reads: reads, writes: writes, asJob: false)
      let job = try await Self.outcome(loop, reads: reads, writes: writes, asJob: true)
      #expect(small == job)
    }
  }

  @Test func copiesEverything() throws {
    try simulate { loop in
      let outcome = try await Self.outcome(
        loop, reads: FaultPlan(), writes: FaultPlan(), asJob: false)
      #expect(outcome.isIntact && outcome.ending == .finished && outcome.missing.isEmpty)
      #expect(outcome.reads == [16..<24] && outcome.writes == [32..<40])
    }
  }

  @Test func startsNothingInACancelledTask() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 16, on: loop)
      let task = Task(executorPreference: loop) {
        withUnsafeCurrentTask { $0?.cancel() }
        return try await client.copy(from: source.region(0..<8), to: [target.region(0..<8)])
      }
      let result = try await task.value
      #expect(result.ending == .cancelled && result.written(0).isEmpty)
      #expect(source.log.of(.read).isEmpty)
    }
  }
}
