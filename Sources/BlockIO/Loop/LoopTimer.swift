/// A task that sleeps on a loop.
struct LoopTimer: Comparable {
  let deadline: LoopInstant
  /// Timers of the same instant fire in the order in which they were set.
  let number: UInt64
  let continuation: UnsafeContinuation<Void, Never>

  static func < (left: LoopTimer, right: LoopTimer) -> Bool {
    (left.deadline, left.number) < (right.deadline, right.number)
  }
  static func == (left: LoopTimer, right: LoopTimer) -> Bool { left.number == right.number }
}
