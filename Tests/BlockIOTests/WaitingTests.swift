import BlockIO
import Testing

/// Waiting, by tasks that don't prefer the loop: a call of theirs can be put behind other jobs.
@Suite struct WaitingTests {
  /// Work on a loop, done after a number of its passes.
  private actor Work {
    nonisolated let loop: IOLoop
    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    private let changed = Gate()
    private var isDone = false

    init(on loop: IOLoop) { self.loop = loop }

    private func finish(after passes: Int) async {
      for _ in 0..<passes { await Task.yield() }
      isDone = true
      changed.open()
    }

    func run(for passes: Int) async {
      isDone = false
      Task(executorPreference: loop) { await self.finish(after: passes) }
      await changed.wait { !isDone }
    }
  }

  @Test(.timeLimit(.minutes(1)))
  func aGateOpenedOnTheWayToItIsNotMissed() async throws {
    let loop = try IOLoop.start(backend: .threads)
    defer { loop.stop() }
    let work = Work(on: loop)
    for passes in 0..<20 {
      await work.run(for: passes)
    }
  }
}
