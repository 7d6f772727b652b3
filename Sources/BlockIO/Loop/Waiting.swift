/// A place where tasks of one actor wait until something has happened.
package final class Gate {
  private var waiting: [UnsafeContinuation<Void, Never>] = []

  package init() {}

  /// Suspends while `condition` holds; it is looked at now and after each ``open()``.
  ///
  /// It is looked at once more in the very step in which the task suspends. Between a caller's own
  /// look and that step others may run, and open the gate: a task that doesn't prefer the loop is
  /// put at the end of its queue by the mere call.
  package func wait(while condition: () -> Bool) async {
    while condition() {
      await withUnsafeContinuation { continuation in
        if condition() {
          waiting.append(continuation)
        } else {
          continuation.resume()
        }
      }
    }
  }

  /// Has everyone who waits look again.
  package func open() {
    guard !waiting.isEmpty else { return }
    let all = waiting
    waiting = []
    for continuation in all { continuation.resume() }
  }
}

/// Requests under way, by the sectors they touch, so that others can wait for their end.
package final class TrackedRequests {
  package init() {}

  private var requests: [(number: UInt64, sectors: Range<Sector>)] = []
  private var count: UInt64 = 0
  private let changed = Gate()

  /// Takes note of a request; hand the number to ``end(_:)``.
  package func begin(_ sectors: Range<Sector>) -> UInt64 {
    count += 1
    requests.append((count, sectors))
    return count
  }

  /// The request is over.
  package func end(_ number: UInt64) {
    if let index = requests.firstIndex(where: { $0.number == number }) {
      requests.swapAt(index, requests.count - 1)
      requests.removeLast()
    }
    changed.open()
  }

  /// Whether no request under way touches `sectors`.
  package func isClear(of sectors: Range<Sector>) -> Bool {
    !requests.contains { $0.sectors.overlaps(sectors) }
  }

  /// Suspends until that is so.
  package func drain(_ sectors: Range<Sector>) async {
    await changed.wait { !isClear(of: sectors) }
  }
}

/// A number of things under way and a limit at which newcomers wait.
package final class Quota {
  package private(set) var count = 0
  private let limit: Int
  private let changed = Gate()

  package init(limit: Int) { self.limit = limit }

  package func add(_ more: Int) { count += more }

  package func remove(_ fewer: Int) {
    count -= fewer
    assert(count >= 0, "ended more often than begun")
    changed.open()
  }

  /// Whether newcomers needn't wait.
  package var isBelowLimit: Bool { count <= limit }

  /// Suspends while the number exceeds the limit.
  package func waitBelowLimit() async {
    await changed.wait { !isBelowLimit }
  }

  /// Suspends until nothing is under way.
  package func waitForNone() async {
    await changed.wait { count > 0 }
  }
}
