import BlockIO
import Synchronization

/// Who may change which blocks: a change of a part of a block reads the block, and writes it back
/// whole. Another change of the same block meanwhile would be undone.
final class BlockTurns: Sendable {
  private struct Turn {
    let number: UInt64
    let sectors: Range<Sector>
    let isAlone: Bool
    /// nil: it has its turn.
    var waiting: UnsafeContinuation<Void, Never>?

    func conflicts(with other: Turn) -> Bool {
      (isAlone || other.isAlone) && sectors.overlaps(other.sectors)
    }
  }

  private struct State {
    /// In the order in which they came: each waits for those before it.
    var turns: [Turn] = []
    var count: UInt64 = 0
  }

  private let state = Mutex(State())

  /// Waits until no one else is about a conflicting change; hand the number to ``leave(_:)``.
  func enter(_ sectors: Range<Sector>, alone: Bool) async -> UInt64 {
    let number = state.withLock { state in
      state.count += 1
      return state.count
    }
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
      let hasTurn = state.withLock { state in
        var turn = Turn(number: number, sectors: sectors, isAlone: alone)
        let mustWait = state.turns.contains { $0.conflicts(with: turn) }
        if mustWait { turn.waiting = continuation }
        state.turns.append(turn)
        return !mustWait
      }
      if hasTurn { continuation.resume() }
    }
    return number
  }

  func leave(_ number: UInt64) {
    let next = state.withLock { state in
      state.turns.removeAll { $0.number == number }
      var next: [UnsafeContinuation<Void, Never>] = []
      for index in state.turns.indices {
        let turn = state.turns[index]
        guard let waiting = turn.waiting,
          !state.turns[..<index].contains(where: { $0.conflicts(with: turn) })
        else { continue }
        state.turns[index].waiting = nil
        next.append(waiting)
      }
      return next
    }
    for continuation in next { continuation.resume() }
  }
}
