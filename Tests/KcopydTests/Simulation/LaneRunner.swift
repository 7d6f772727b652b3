import BlockIO
@testable import BlockIOTesting
import Kcopyd

/// Runs the jobs of a lane one after the other and checks each as soon as it ends.
struct LaneRunner: Sendable {
  let world: SimulationWorld
  let lane: Int

  private var jobs: [SimulationPlan.Job] { world.plan.lanes[lane].jobs }

  func run() async throws {
    var next = 0
    while next < jobs.count {
      let job = jobs[next]
      await world.loop.sleep(for: job.delay)
      switch job.form {
      case .awaited:
        try await runAwaited(next)
        next += 1
      case .notified, .chained:
        let first = next
        next = try await withUnsafeThrowingContinuation { start(first, continuation: $0) }
      }
    }
  }

  private func runAwaited(_ index: Int) async throws {
    let job = jobs[index]
    let witness = JobWitness(world: world, lane: lane, index: index)
    let client = world.clients[job.client]
    let task = Task(executorPreference: world.loop) {
      let destinations = job.destinations.map(world.region)
      guard let source = job.source else {
        return try await client.zero(
          destinations, options: job.options, progress: witness.progress)
      }
      return try await client.copy(
        from: world.region(source), to: destinations, options: job.options,
        progress: witness.progress)
    }
    if let delay = job.cancelAfter {
      world.later(delay) {
        witness.noteCancellation()
        task.cancel()
      }
    }
    try witness.check(try await task.value)
  }

  /// Starts a job; its notification starts the next one if that is to be chained to it, or else
  /// resumes with the number of the next.
  private func start(_ index: Int, continuation: UnsafeContinuation<Int, any Error>) {
    let job = jobs[index]
    let witness = JobWitness(world: world, lane: lane, index: index)
    let id = NotificationLedger.ID.job(lane: lane, index: index)
    world.notifications.expect(id)
    let notify: @Sendable (CopyResult) -> Void = { result in
      var failure: (any Error)?
      for _ in 0..<world.sabotage.notifications {
        world.notifications.notify(id, client: job.client, loop: world.loop) {
          do { try witness.check(result) } catch { failure = error }
          return nil
        }
      }
      if let failure { return continuation.resume(throwing: failure) }
      if index + 1 < jobs.count, jobs[index + 1].form == .chained {
        return start(index + 1, continuation: continuation)
      }
      continuation.resume(returning: index + 1)
    }
    do {
      let handle = try world.notifications.starting(job.client) {
        try start(job, progress: witness.progress, notify)
      }
      guard let delay = job.cancelAfter else { return }
      world.later(delay) {
        witness.noteCancellation()
        handle.cancel()
      }
    } catch {
      continuation.resume(throwing: error)
    }
  }

  private func start(
    _ job: SimulationPlan.Job, progress: CopyProgress?,
    _ notify: @escaping @Sendable (CopyResult) -> Void
  ) throws -> CopyHandle {
    let client = world.clients[job.client]
    let destinations = job.destinations.map(world.region)
    guard let source = job.source else {
      return try client.zero(
        destinations, options: job.options, progress: progress, notify: notify)
    }
    return try client.copy(
      from: world.region(source), to: destinations, options: job.options, progress: progress,
      notify: notify)
  }
}
