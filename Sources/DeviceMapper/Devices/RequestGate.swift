public import BlockIO
import Synchronization

/// Where the requests of a mapped device go in: counts those under way, keeps them out while the
/// device is suspended, and knows the live table.
///
/// Behind a lock, which costs less than a change of actors: requests may come from any thread.
final class RequestGate: Sendable {
  private struct State {
    var table: MappedTable?
    var isClosed = false
    var inFlight = 0
    var deferred = 0
    var statistics = DeviceStatistics()
    /// Requests that wait for the gate to open.
    var waiting: [UnsafeContinuation<Void, Never>] = []
    /// Those who wait for the end of all requests.
    var draining: [UnsafeContinuation<Void, Never>] = []
  }

  private let state = Mutex(State())
  private let faults: GateFaults
  private let loop: IOLoop

  init(faults: GateFaults, on loop: IOLoop) {
    self.faults = faults
    self.loop = loop
  }

  /// What a request that is under way needs to run.
  struct Pass: Sendable {
    let table: MappedTable?
  }

  // MARK: Requests

  /// Lets a request in, unless it has to wait.
  func enterNow() -> Pass? {
    state.withLock { state in
      guard !state.isClosed else { return nil }
      state.inFlight += 1
      return Pass(table: state.table)
    }
  }

  /// Lets a request in, when the device isn't suspended any more.
  ///
  /// - Returns: nil: the task's patience (``SuspendedPatience``) has ended before.
  func enter() async -> Pass? {
    state.withLock { $0.deferred += 1 }
    defer { state.withLock { $0.deferred -= 1 } }
    if let limit = SuspendedPatience.limit { return await enter(within: limit) }
    if faults.contains(.ignoresSuspend) {
      await loop.sleep(for: .microseconds(10))
      return state.withLock { state in
        state.inFlight += 1
        return Pass(table: state.table)
      }
    }
    while true {
      if let pass = enterNow() { return pass }
      await wait { state, waiter in
        if state.isClosed { state.waiting.append(waiter) }
        return state.isClosed
      }
    }
  }

  private func enter(within limit: Duration) async -> Pass? {
    let end = loop.now.advanced(by: limit)
    while true {
      if let pass = enterNow() { return pass }
      guard loop.now < end else { return nil }
      await loop.sleep(for: .milliseconds(20))
    }
  }

  /// The request is over, or will be done again: then it isn't counted.
  func leave(_ request: MappedRequest?, latency: Duration, isDone: Bool) {
    let drained = state.withLock { state in
      if let request {
        state.statistics.note(request, latency: latency, isDone: isDone)
      }
      state.inFlight -= 1
      return state.inFlight == 0 ? take(&state.draining) : []
    }
    for continuation in drained { continuation.resume() }
  }

  // MARK: The mapper's side

  /// Keeps requests out from now on.
  func close() { state.withLock { $0.isClosed = true } }

  /// Lets them in again.
  func open() {
    let waiting = state.withLock { state in
      state.isClosed = false
      return take(&state.waiting)
    }
    for continuation in waiting { continuation.resume() }
  }

  /// Waits until nothing is under way.
  func drain() async {
    while state.withLock({ $0.inFlight > 0 }) {
      await wait { state, waiter in
        if state.inFlight > 0 { state.draining.append(waiter) }
        return state.inFlight > 0
      }
    }
  }

  func setTable(_ table: MappedTable?) { state.withLock { $0.table = table } }

  /// Whether requests have to wait, and where they go otherwise.
  var position: (isClosed: Bool, table: MappedTable?) {
    state.withLock { ($0.isClosed, $0.table) }
  }

  var statistics: DeviceStatistics {
    state.withLock { state in
      var statistics = state.statistics
      statistics.inFlight = state.inFlight
      statistics.deferred = state.deferred
      return statistics
    }
  }

  // MARK: Waiting

  private typealias Waiter = UnsafeContinuation<Void, Never>

  /// Suspends if `enqueue` has put the waiter into a queue; it says whether it has.
  private func wait(_ enqueue: (inout State, Waiter) -> Bool) async {
    await withUnsafeContinuation { waiter in
      if !state.withLock({ enqueue(&$0, waiter) }) { waiter.resume() }
    }
  }
}

/// Empties a queue.
private func take<T>(_ queue: inout [T]) -> [T] {
  defer { queue = [] }
  return queue
}

/// For how long requests of a task wait for a suspended device: without end, but for those of a verb,
/// which would keep others waiting.
enum SuspendedPatience {
  @TaskLocal static var limit: Duration?

  /// That of a verb, for what it reads of other devices.
  private static let ofVerbs = Duration.seconds(10)

  /// Does a part of a verb that reads other devices, which may become suspended meanwhile.
  static func limited<R: Sendable>(
    _ body: () async throws(DeviceMapperError) -> R
  ) async throws(DeviceMapperError) -> R {
    try await $limit.withValue(ofVerbs) { () async -> Result<R, DeviceMapperError> in
      do throws(DeviceMapperError) { return .success(try await body()) } catch {
        return .failure(error)
      }
    }.get()
  }
}

/// Faults of a gate, for tests of the tests.
struct GateFaults: OptionSet, Sendable {
  let rawValue: Int
  /// Requests go to the table although the device is suspended, a little later.
  static let ignoresSuspend = GateFaults(rawValue: 1)
  /// A request that was deferred is said to be done without having been.
  static let dropsDeferred = GateFaults(rawValue: 2)
}

/// What a mapped device has done since it was made; times are without that for which requests were
/// deferred.
public struct DeviceStatistics: Hashable, Sendable {
  /// Reads.
  public internal(set) var reads = RequestCount()
  /// Writes, zeroing included.
  public internal(set) var writes = RequestCount()
  /// Discards.
  public internal(set) var discards = RequestCount()
  /// Flushes.
  public internal(set) var flushes = RequestCount()
  /// Requests under way now.
  public internal(set) var inFlight = 0
  /// Requests that wait for the device to be resumed.
  public internal(set) var deferred = 0

  mutating func note(_ request: MappedRequest, latency: Duration, isDone: Bool) {
    switch request {
    case .read: add(request, latency, isDone, to: &reads)
    case .write, .writeZeroes: add(request, latency, isDone, to: &writes)
    case .discard: add(request, latency, isDone, to: &discards)
    case .flush: add(request, latency, isDone, to: &flushes)
    }
  }

  private func add(
    _ request: MappedRequest, _ latency: Duration, _ isDone: Bool, to count: inout RequestCount
  ) {
    count.note(
      bytes: request.sectors?.length.bytes ?? 0, nanoseconds: latency.nanoseconds, isDone: isDone)
  }
}
