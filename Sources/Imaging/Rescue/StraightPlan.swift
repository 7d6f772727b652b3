import BlockIO

/// The order of a copy that isn't a rescue: ascending, over everything that isn't finished, and no
/// further after an error. Pure.
struct StraightPlan: Sendable {
  /// What is known of each sector. Finished here is what has been copied.
  private(set) var map: StatusMap
  /// Where the next window starts.
  private(set) var position: Sector

  private let domain: Range<Sector>
  private let largestWindow: Sector
  private var window: Sector
  private let windowsInFlight: Int
  private var inFlight = 0
  private var hasStopped = false

  init(_ map: StatusMap, domain: Range<Sector>, window: Sector, windowsInFlight: Int = 2) {
    self.map = map
    self.domain = domain
    largestWindow = window
    self.window = min(window, Self.smallestWindow)
    self.windowsInFlight = windowsInFlight
    position = domain.lowerBound
  }

  static let smallestWindow = Sector(holding: 1 << 20)

  private static let unfinished = Set(BlockStatus.allCases).subtracting([.finished])

  var isFinished: Bool { map.first(Self.unfinished, in: domain) == nil }

  mutating func next() -> RescuePlan.Step {
    guard !hasStopped,
      let run = map.first(Self.unfinished, in: position..<domain.upperBound)?.sectors
    else { return .done }
    guard inFlight < windowsInFlight else { return .wait }
    // Runs of several statuses are one to this plan: cut by the window only.
    let end = map.first([.finished], in: run.lowerBound..<domain.upperBound)?.sectors.lowerBound
    let range = run.lowerBound..<min(end ?? domain.upperBound, run.lowerBound + window)
    position = range.upperBound
    inFlight += 1
    return .read(range)
  }

  /// Takes in what became of a window, and how long it took: what is done is known by windows, so
  /// that they must not take long.
  mutating func finish(
    copied: RangeSet<Sector>, failed: RangeSet<Sector>, after duration: Duration
  ) {
    inFlight -= 1
    if duration < .milliseconds(250) {
      window = min(largestWindow, window * 2)
    } else if duration > .seconds(1) {
      window = max(min(largestWindow, Self.smallestWindow), Sector(window.rawValue / 2))
    }
    for range in copied.ranges { map.set(range, .finished) }
    for range in failed.ranges { map.set(range, .nonTrimmed) }
    if !failed.isEmpty { hasStopped = true }
  }
}
