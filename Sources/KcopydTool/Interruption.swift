import CBlockIO
import Dispatch
import Foundation
import Synchronization

/// Interrupt, terminate and hang-up as an orderly end: the first one calls a handler, the second
/// one ends the process at once.
final class Interruption: Sendable {
  private let state = Mutex(State())

  private struct State {
    var count = 0
    var handler: (@Sendable () -> Void)?
    var cleanUp: (@Sendable () -> Void)?
  }

  // Kept alive here; dispatch sources are never touched again after they have been started.
  private nonisolated(unsafe) let sources: [any DispatchSourceSignal]

  init() {
    // What the caller had ignored stays ignored: `nohup`, or a script's background job.
    sources = [SIGINT, SIGTERM, SIGHUP].filter { !blockio_ignores_signal($0) }.map { number in
      signal(number, SIG_IGN)
      return DispatchSource.makeSignalSource(signal: number, queue: .global())
    }
    for source in sources {
      source.setEventHandler { [weak self] in self?.arrived() }
      source.activate()
    }
  }

  /// Whether one has come.
  var hasCome: Bool { state.withLock { $0.count > 0 } }

  /// What the first one does; at once if it has come already.
  func handle(_ handler: @escaping @Sendable () -> Void) {
    let hasCome = state.withLock { state in
      state.handler = handler
      return state.count > 0
    }
    if hasCome { handler() }
  }

  /// What must be done even before ending at once.
  func cleanUp(_ body: @escaping @Sendable () -> Void) {
    state.withLock { $0.cleanUp = body }
  }

  private func arrived() {
    let (count, handler, cleanUp) = state.withLock { state in
      state.count += 1
      return (state.count, state.handler, state.cleanUp)
    }
    guard count > 1 else {
      handler?()
      return
    }
    cleanUp?()
    Output.complain("interrupted twice: ended at once; what was written last may not be durable")
    _exit(130)
  }
}
