public import BlockIO
import SystemPackage

/// Where the requests of a mapped device go in: counts those under way, keeps them out while the
/// device is suspended, and knows the live table.
///
/// An actor of the loop that is mostly used without a change of actors: whoever runs on the loop is
/// inside.
actor RequestGate {
  nonisolated let loop: IOLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  private var table: MappedTable?
  private var isClosed = false
  private let opened = Gate()
  private let inFlight = Quota(limit: 0)
  private var deferred = 0
  private var statistics = DeviceStatistics()
  private let faults: GateFaults

  init(faults: GateFaults, on loop: IOLoop) {
    self.faults = faults
    self.loop = loop
  }

  /// What a request needs to run, and what is to be noted when it is over.
  struct Pass: Sendable {
    let table: MappedTable?
    let start: LoopInstant
  }

  // MARK: Requests

  /// Lets a request in, in the calling task, if it runs on the loop and hasn't to wait.
  nonisolated func enterHere() -> Pass? {
    assumeIsolated { gate in gate.isClosed ? nil : gate.pass() }
  }

  /// Lets a request in, when the device isn't suspended any more.
  ///
  /// - Returns: nil: the task's patience (``SuspendedPatience``) has ended before.
  func enter() async -> Pass? {
    if isClosed {
      deferred += 1
      defer { deferred -= 1 }
      if let limit = SuspendedPatience.limit {
        guard await isOpened(within: limit) else { return nil }
      } else if faults.contains(.ignoresSuspend) {
        await loop.sleep(for: .microseconds(10))
      } else {
        while isClosed { await opened.wait { isClosed } }
      }
    }
    return pass()
  }

  private func isOpened(within limit: Duration) async -> Bool {
    let end = loop.now.advanced(by: limit)
    while isClosed {
      guard loop.now < end else { return false }
      await loop.sleep(for: .milliseconds(20))
    }
    return true
  }

  private func pass() -> Pass {
    inFlight.add(1)
    return Pass(table: table, start: loop.now)
  }

  /// The request is over, or will be done again.
  nonisolated func leaveHere(_ pass: Pass, _ request: MappedRequest?, isDone: Bool) {
    assumeIsolated { gate in
      gate.inFlight.remove(1)
      guard let request else { return }
      let latency = pass.start.duration(to: gate.loop.now)
      gate.statistics.note(request, latency: latency, isDone: isDone)
    }
  }

  // MARK: The mapper's side

  /// Keeps requests out from now on.
  nonisolated func closeHere() { assumeIsolated { $0.isClosed = true } }

  /// Lets them in again.
  nonisolated func openHere() {
    assumeIsolated { gate in
      gate.isClosed = false
      gate.opened.open()
    }
  }

  /// Waits until nothing is under way.
  func drain() async { await inFlight.waitForNone() }

  nonisolated func setTableHere(_ table: MappedTable?) {
    assumeIsolated { $0.table = table }
  }

  /// Whether requests have to wait, and where they go otherwise.
  nonisolated var stateHere: (isClosed: Bool, table: MappedTable?) {
    assumeIsolated { ($0.isClosed, $0.table) }
  }

  nonisolated var statisticsHere: DeviceStatistics {
    assumeIsolated { gate in
      var statistics = gate.statistics
      statistics.inFlight = gate.inFlight.count
      statistics.deferred = gate.deferred
      return statistics
    }
  }
}

/// For how long requests of a task wait for a suspended device: without end, but for those of a verb,
/// which would keep others waiting.
enum SuspendedPatience {
  @TaskLocal static var limit: Duration?

  /// What a table that is being loaded reads.
  static let whileLoading = Duration.seconds(10)
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
