import CBlockIO
import DequeModule
import Synchronization
import SystemPackage

/// Memory for I/O that is reserved once and lent in runs of adjacent pages.
///
/// Aligned to and advised as huge pages (2 MiB) when it is that large: with `O_DIRECT` that alone
/// doubles the speed. Requests are served strictly in order: one that doesn't fit waits at the
/// head and so do all behind it, so that none starves; a run as large as the reserve always comes
/// in the end, because what is lent is lent for one sub-job only.
public final class PagePool: Sendable {
  /// The size of a page in bytes.
  public static let pageSize = 4096

  /// How many pages the reserve holds.
  public let pageCount: Int

  // Set once, unmapped in deinit; every run of pages holds a reference to the pool, so no view
  // of the memory can be in use by then.
  private nonisolated(unsafe) let base: UnsafeMutableRawPointer
  private let state: Mutex<State>

  private struct Waiter {
    let number: UInt64
    let count: Int
    /// nil until the waiter has suspended.
    var continuation: UnsafeContinuation<Int, Never>?
  }

  private struct State {
    /// Pages not lent: disjoint, ascending, never adjacent.
    var free: [Range<Int>]
    var waiting: Deque<Waiter> = []
    /// Whose turn came before they had suspended: the first page for each of them.
    var served: [UInt64: Int] = [:]
    var waiterCount: UInt64 = 0

    /// First fit, so that the same – warm – pages are used again and again.
    mutating func take(_ count: Int) -> Int? {
      guard let index = free.firstIndex(where: { $0.count >= count }) else { return nil }
      let start = free[index].lowerBound
      free[index] = start + count..<free[index].upperBound
      if free[index].isEmpty { free.remove(at: index) }
      return start
    }

    mutating func giveBack(_ pages: Range<Int>) {
      let next = free.firstIndex { $0.lowerBound >= pages.upperBound } ?? free.endIndex
      var merged = pages
      if next < free.endIndex, free[next].lowerBound == pages.upperBound {
        merged = merged.lowerBound..<free.remove(at: next).upperBound
      }
      if next > 0, free[next - 1].upperBound == merged.lowerBound {
        free[next - 1] = free[next - 1].lowerBound..<merged.upperBound
      } else {
        free.insert(merged, at: next)
      }
    }
  }

  /// Reserves `pageCount` pages of 4096 bytes.
  ///
  /// - Throws: `ENOMEM` when the system hasn't that much, or it is more than half of the memory.
  public init(pageCount: Int) throws(IOFailure) {
    precondition(pageCount > 0)
    let (byteCount, overflow) = pageCount.multipliedReportingOverflow(by: Self.pageSize)
    let hugePage = 2 << 20
    // The pages are backed at once: without a limit a mistyped number would take the machine down.
    guard !overflow, UInt64(byteCount) <= blockio_physical_memory() / 2,
      let base = blockio_map(byteCount, byteCount >= hugePage ? hugePage : Self.pageSize)
    else { throw IOFailure(.reservePages, "\(pageCount) pages", errno: .noMemory) }
    self.base = base
    self.pageCount = pageCount
    state = Mutex(State(free: [0..<pageCount]))
  }

  deinit { blockio_unmap(base, pageCount * Self.pageSize) }

  /// How many pages hold `sectors`.
  public static func pages(holding sectors: Sector) -> Int {
    Int((sectors.bytes + UInt64(pageSize) - 1) / UInt64(pageSize))
  }

  /// Pages not lent.
  public var freeCount: Int { state.withLock { $0.free.reduce(0) { $0 + $1.count } } }

  /// Lends `count` adjacent pages, as soon as there are as many and everyone who asked before has
  /// got theirs.
  ///
  /// - Precondition: `count` is at most the reserve.
  public func take(_ count: Int) async -> Pages {
    precondition(count > 0 && count <= pageCount, "a request larger than the reserve")
    let ticket: (start: Int?, number: UInt64) = state.withLock { state in
      if state.waiting.isEmpty, let start = state.take(count) { return (start, 0) }
      // The place in the queue is taken here and not where the task suspends: before it does,
      // others may run.
      state.waiterCount += 1
      state.waiting.append(Waiter(number: state.waiterCount, count: count))
      return (nil, state.waiterCount)
    }
    if let start = ticket.start { return Pages(pool: self, range: start..<start + count) }
    let start = await withUnsafeContinuation { continuation in
      let start: Int? = state.withLock { state in
        if let start = state.served.removeValue(forKey: ticket.number) { return start }
        guard let place = state.waiting.firstIndex(where: { $0.number == ticket.number }) else {
          preconditionFailure("a waiter without a place in the queue")
        }
        state.waiting[place].continuation = continuation
        return nil
      }
      if let start { continuation.resume(returning: start) }
    }
    return Pages(pool: self, range: start..<start + count)
  }

  /// Lends `count` adjacent pages, if that is possible at once and nobody waits.
  public func tryTake(_ count: Int) -> Pages? {
    let start = state.withLock { $0.waiting.isEmpty ? $0.take(count) : nil }
    return start.map { Pages(pool: self, range: $0..<$0 + count) }
  }

  /// A reserve that holds `sectors`, and at least a page, lent as a whole to the caller.
  ///
  /// - Throws: `ENOMEM`, as ``init(pageCount:)``.
  public static func lend(holding sectors: Sector) throws(IOFailure) -> Pages {
    let pool = try PagePool(pageCount: max(1, pages(holding: sectors)))
    guard let start = pool.state.withLock({ $0.take(pool.pageCount) }) else {
      preconditionFailure("a new reserve lends itself as a whole")
    }
    return Pages(pool: pool, range: start..<start + pool.pageCount)
  }

  fileprivate func giveBack(_ pages: Range<Int>) {
    var served: [(continuation: UnsafeContinuation<Int, Never>, start: Int)] = []
    state.withLock { state in
      state.giveBack(pages)
      while let first = state.waiting.first, let start = state.take(first.count) {
        state.waiting.removeFirst()
        if let continuation = first.continuation {
          served.append((continuation, start))
        } else {
          state.served[first.number] = start
        }
      }
    }
    for (continuation, start) in served { continuation.resume(returning: start) }
  }

  fileprivate func buffer(_ pages: Range<Int>) -> IOBuffer {
    // `pages` is lent by `take`, so it lies within the map and is nobody else's.
    IOBuffer(base: base + pages.lowerBound * Self.pageSize, byteCount: pages.count * Self.pageSize)
  }
}

/// A run of adjacent pages on loan. Goes back to its pool when it goes out of scope.
public struct Pages: ~Copyable, Sendable {
  fileprivate let pool: PagePool
  fileprivate let range: Range<Int>

  /// The memory. Use it only while this value lives.
  public var buffer: IOBuffer { pool.buffer(range) }

  /// Gives the pages back now.
  public consuming func giveBack() {}

  deinit { pool.giveBack(range) }
}
