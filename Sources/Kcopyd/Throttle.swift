import BlockIO
import Synchronization

/// Slows a group of clients down: to a part of the time, to a number of bytes per second, or
/// both. Each may be changed while copies run.
///
/// The percentage is the kernel's throttle: the part of the wall time in which at least one I/O
/// of the group is outstanding. It doesn't limit bytes, and 0 % doesn't stop copying: each start
/// of an I/O is delayed by at most a second.
public final class Throttle: Sendable {
  private let state: Mutex<State>

  private struct State {
    var duty: DutyCycle
    var budget: ByteBudget
  }

  /// A throttle; without arguments it lets everything pass.
  public init(percent: Int = 100, bytesPerSecond: UInt64? = nil) {
    state = Mutex(
      State(
        duty: DutyCycle(percent: percent), budget: ByteBudget(bytesPerSecond: bytesPerSecond)))
  }

  /// The part of the time, in percent; 100 and more is no limit.
  public var percent: Int {
    get { state.withLock { $0.duty.percent } }
    set { state.withLock { $0.duty.percent = newValue } }
  }

  /// The most bytes per second that are read, or zeroed; nil is no limit.
  public var bytesPerSecond: UInt64? {
    get { state.withLock { $0.budget.bytesPerSecond } }
    set { state.withLock { $0.budget = ByteBudget(bytesPerSecond: newValue) } }
  }

  /// Whether everything passes, for now.
  package var isOpen: Bool {
    state.withLock { $0.duty.percent >= 100 && $0.budget.bytesPerSecond == nil }
  }

  /// The longest sleep: a changed limit takes effect after at most that.
  private static let sleep = Duration.milliseconds(100)
  private static let maximumSleeps = 10

  /// Waits until an I/O may start, and counts it as outstanding. Ends early when `isCancelled`.
  package func start(bytes: UInt64, on loop: IOLoop, isCancelled: () -> Bool) async {
    while let wait = state.withLock({ $0.budget.take(bytes, now: loop.now) }), !isCancelled() {
      await loop.sleep(for: min(wait, Self.sleep))
    }
    var sleeps = 0
    while state.withLock({ $0.duty.mustWait(now: loop.now) }), sleeps < Self.maximumSleeps,
      !isCancelled()
    {
      await loop.sleep(for: Self.sleep)
      sleeps += 1
    }
    state.withLock { $0.duty.outstanding += 1 }
  }

  /// Counts an I/O that was started as done.
  package func end(on loop: IOLoop) {
    state.withLock { $0.duty.end(now: loop.now) }
  }
}

/// The kernel's accounting of the time with I/O outstanding. Pure: time comes in as an argument.
struct DutyCycle {
  /// Ticks are milliseconds, so the window – the power of two nearest to one second – is 1024.
  static let window: Int64 = 1024

  var percent: Int
  /// I/Os started and not done.
  var outstanding = 0
  /// Ticks with I/O outstanding, and all ticks accounted for.
  private(set) var busy: Int64 = 0
  private(set) var total: Int64 = 0
  private var last: Int64?

  init(percent: Int) { self.percent = percent }

  private mutating func account(_ now: LoopInstant) {
    let tick = now.nanoseconds / 1_000_000
    // No time has passed before the first one.
    let passed = tick - (last ?? tick)
    last = tick
    if outstanding > 0 { busy += passed }
    total += passed
    busy = min(busy, total)
  }

  /// Whether an I/O that wants to start has to wait.
  mutating func mustWait(now: LoopInstant) -> Bool {
    guard percent < 100 else { return false }
    account(now)
    if total >= Self.window {
      // Old times count for less and less.
      let shift = Int64.bitWidth - (total / Self.window).leadingZeroBitCount
      total >>= Int64(shift)
      busy >>= Int64(shift)
    }
    return busy - Int64(percent) * total / 100 > 0
  }

  mutating func end(now: LoopInstant) {
    precondition(outstanding > 0)
    outstanding -= 1
    guard percent < 100, outstanding == 0 else { return }
    // The time up to now was busy, though nothing is outstanding any more.
    outstanding = 1
    account(now)
    outstanding = 0
  }
}

/// Bytes per second. Pure: time comes in as an argument.
struct ByteBudget {
  let bytesPerSecond: UInt64?
  /// What may be spent; negative while the last start is being paid for.
  private var balance: Double = 0
  private var last: LoopInstant?

  init(bytesPerSecond: UInt64?) { self.bytesPerSecond = bytesPerSecond }

  /// Spends `bytes` and returns nil, or returns how long to wait before asking again.
  mutating func take(_ bytes: UInt64, now: LoopInstant) -> Duration? {
    guard let bytesPerSecond, bytes > 0 else { return nil }
    let rate = Double(max(1, bytesPerSecond))
    let passed = Double((last ?? now).duration(to: now).nanoseconds) / 1e9
    last = now
    // A tenth of a second may be saved up: enough not to lose time to the sleeps.
    balance = min(balance + passed * rate, rate / 10)
    guard balance < 0 else {
      balance -= Double(bytes)
      return nil
    }
    // At least a millisecond, at most what is sensible to convert.
    return .nanoseconds(Int64(min(max(-balance / rate, 0.001), 1) * 1e9))
  }
}
