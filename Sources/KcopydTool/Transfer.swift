import BlockIO
import Foundation
import Kcopyd
import Synchronization

/// A job of the engine as the command runs it: with progress, an orderly end when interrupted, and
/// durable before it is called done.
final class Transfer: Sendable {
  /// Starts the job, with that progress, and calls back with its result.
  typealias Start =
    @Sendable (CopyProgress, @escaping @Sendable (CopyResult) -> Void) throws(KcopydError)
    -> CopyHandle

  private let engine: Engine
  private let devices: [any BlockDevice]
  private let byteCount: UInt64
  private let options: WritingOptions
  private let progress: CopyProgress
  private let isFlushing = Atomic<Bool>(false)
  /// Why a destination couldn't be made durable, by index. A later flush that succeeds takes
  /// nothing back: the system forgets what it couldn't write.
  private let flushFailures = Mutex<[Int: IOFailure]>([:])

  init(
    engine: Engine, devices: [any BlockDevice], byteCount: UInt64, options: WritingOptions
  ) {
    self.engine = engine
    self.devices = devices
    self.byteCount = byteCount
    self.options = options
    progress = CopyProgress(destinations: devices.count)
  }

  /// Runs the job to its end. When `interruption` comes it starts nothing new, finishes what is
  /// under way and makes that durable.
  func run(
    _ title: String, interruption: Interruption, _ start: @escaping Start
  ) async throws(Refusal) -> Report {
    let clock = ContinuousClock()
    let begin = clock.now
    let display = Task { await self.display(title, since: begin) }
    let flusher = Task { await self.flushNowAndThen() }
    let result: CopyResult
    do throws(KcopydError) {
      result = try await finish(interruption, start)
    } catch {
      flusher.cancel()
      display.cancel()
      await display.value
      throw Refusal(error.description)
    }
    isFlushing.store(true, ordering: .relaxed)
    flusher.cancel()
    await flusher.value
    if !options.noSync { await flushAll() }
    let duration = begin.duration(to: clock.now)
    display.cancel()
    await display.value
    return Report(
      result: result, names: devices.map(\.name), byteCount: byteCount,
      progress: progress.snapshot, flushFailures: flushFailures.withLock { $0 },
      isSynced: !options.noSync, duration: duration, wasInterrupted: interruption.hasCome)
  }

  private func finish(
    _ interruption: Interruption, _ start: Start
  ) async throws(KcopydError) -> CopyResult {
    let ended = AsyncStream.makeStream(of: CopyResult.self)
    let handle = try start(progress) { result in
      ended.continuation.yield(result)
      ended.continuation.finish()
    }
    interruption.handle { handle.cancel() }
    for await result in ended.stream { return result }
    preconditionFailure("a job ended without its notification")
  }

  // MARK: Durability

  /// Keeps making durable what has been written, so that the end isn't one long wait.
  private func flushNowAndThen() async {
    guard !options.noSync else { return }
    while (try? await Task.sleep(for: .seconds(1))) != nil { await flushAll() }
  }

  private func flushAll() async {
    await withDiscardingTaskGroup { group in
      for index in devices.indices {
        group.addTask { await self.flush(index) }
      }
    }
  }

  private func flush(_ index: Int) async {
    // What is counted now has been written before the flush starts.
    let written = progress.snapshot.destinations[index].written
    do throws(IOFailure) {
      try await devices[index].flush()
      let hasFailed = flushFailures.withLock { $0[index] != nil }
      if !hasFailed { progress.markDurable(written, destination: index) }
    } catch {
      flushFailures.withLock { $0[index] = $0[index] ?? error }
    }
  }

  // MARK: Display

  private func display(_ title: String, since begin: ContinuousClock.Instant) async {
    guard !options.engine.quiet, !options.engine.json || Output.isTerminal else { return }
    var view = ProgressView(
      title: title, byteCount: byteCount, names: devices.map(\.name), makesDurable: !options.noSync)
    var screen = ProgressScreen(isTerminal: Output.isTerminal)
    let clock = ContinuousClock()
    // Off the loop: a terminal that doesn't read must not hold up a copy.
    while (try? await Task.sleep(for: .milliseconds(100))) != nil {
      view.update(
        progress.snapshot, after: begin.duration(to: clock.now),
        isFlushing: isFlushing.load(ordering: .relaxed))
      screen.show(view)
    }
    screen.clear()
  }
}
