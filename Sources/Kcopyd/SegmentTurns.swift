import BlockIO

/// Lets something be done with the segments of a job one after the other, in ascending order:
/// sequential writes, and observing. Belongs to one job.
final class SegmentTurns {
  private var next = Sector.zero
  /// What starts here or behind will never be done.
  private var end = Sector(.max)
  private var waiting: [(start: Sector, continuation: UnsafeContinuation<Bool, Never>)] = []

  /// Waits until everything before `segment` is done; false when it never will be.
  func wait(for segment: Range<Sector>) async -> Bool {
    if segment.lowerBound >= end { return false }
    if segment.lowerBound == next { return true }
    return await withUnsafeContinuation { waiting.append((segment.lowerBound, $0)) }
  }

  /// Notes that `segment` is done – or, if nothing `goesOn`, that it won't be, and so none behind
  /// it. Those in front of it still are.
  func pass(_ segment: Range<Sector>, goesOn: Bool) {
    guard goesOn else {
      end = min(end, segment.lowerBound)
      let lost = waiting.filter { $0.start >= end }
      waiting.removeAll { $0.start >= end }
      for waiter in lost { waiter.continuation.resume(returning: false) }
      return
    }
    next = segment.upperBound
    if let index = waiting.firstIndex(where: { $0.start == next }) {
      waiting.remove(at: index).continuation.resume(returning: true)
    }
  }
}
