import BlockIO
import Synchronization

/// Writes under way, by their sectors: where a sector is read, changed in part and written back,
/// nobody may write beside. From any thread.
final class WriteTurns: Sendable {
  /// A write that is under way.
  struct Turn { fileprivate let number: UInt64 }

  private struct Write {
    let number: UInt64
    let sectors: Range<Sector>
    let isExclusive: Bool
  }

  private struct State {
    var writes: [Write] = []
    var count: UInt64 = 0
    var waiting: [UnsafeContinuation<Void, Never>] = []

    func mustWait(_ sectors: Range<Sector>, _ isExclusive: Bool) -> Bool {
      writes.contains { ($0.isExclusive || isExclusive) && $0.sectors.overlaps(sectors) }
    }
  }

  private let state = Mutex(State())

  /// Begins a write, unless it has to wait for another one.
  func tryBegin(_ sectors: Range<Sector>, isExclusive: Bool) -> Turn? {
    state.withLock { state in
      if state.mustWait(sectors, isExclusive) { return nil }
      state.count += 1
      state.writes.append(
        Write(number: state.count, sectors: sectors, isExclusive: isExclusive))
      return Turn(number: state.count)
    }
  }

  /// Begins a write when those that it has to wait for are over.
  func begin(_ sectors: Range<Sector>, isExclusive: Bool) async -> Turn {
    while true {
      if let turn = tryBegin(sectors, isExclusive: isExclusive) { return turn }
      await withUnsafeContinuation { continuation in
        let mustWait = state.withLock { state in
          guard state.mustWait(sectors, isExclusive) else { return false }
          state.waiting.append(continuation)
          return true
        }
        if !mustWait { continuation.resume() }
      }
    }
  }

  /// The write is over.
  func end(_ turn: Turn) {
    let waiting = state.withLock { state in
      if let index = state.writes.firstIndex(where: { $0.number == turn.number }) {
        state.writes.swapAt(index, state.writes.count - 1)
        state.writes.removeLast()
      }
      defer { state.waiting = [] }
      return state.waiting
    }
    for continuation in waiting { continuation.resume() }
  }
}
