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
  /// What is given out.
  private let wanted: Set<BlockStatus>
  /// Ascending.
  private let holes: [Range<Sector>]
  /// The first hole that doesn't lie before `position`.
  private var nextHole = 0
  private var inFlight = 0
  private var hasStopped = false

  /// - Parameters:
  ///   - holes: what costs nearly nothing; sectors like those of the domain.
  ///   - window: the most data of a window.
  ///   - isObserved: one window after the other, and what is finished, too.
  init(
    _ map: StatusMap, domain: Range<Sector>, holes: RangeSet<Sector> = .init(), window: Sector,
    isObserved: Bool = false
  ) {
    self.map = map
    self.domain = domain
    self.holes = Array(holes.ranges)
    largestWindow = window
    self.window = min(window, Self.smallestWindow)
    windowsInFlight = isObserved ? 1 : 2
    wanted = isObserved ? Set(BlockStatus.allCases) : Self.unfinished
    position = domain.lowerBound
  }

  static let smallestWindow = Sector(holding: 1 << 20)
  /// A hole counts as this part of its length.
  static let holePart: UInt64 = 32

  private static let unfinished = Set(BlockStatus.allCases).subtracting([.finished])

  var isFinished: Bool { map.first(Self.unfinished, in: domain) == nil }

  mutating func next() -> RescuePlan.Step {
    guard !hasStopped,
      let run = map.first(wanted, in: position..<domain.upperBound)?.sectors
    else { return .done }
    guard inFlight < windowsInFlight else { return .wait }
    // Runs of several statuses are one to this plan: cut by the window only.
    let unwanted = Set(BlockStatus.allCases).subtracting(wanted)
    let end = map.first(unwanted, in: run.lowerBound..<domain.upperBound)?.sectors.lowerBound
    while nextHole < holes.count, holes[nextHole].upperBound <= run.lowerBound { nextHole += 1 }
    let range = run.lowerBound..<self.end(from: run.lowerBound, limit: end ?? domain.upperBound)
    position = range.upperBound
    inFlight += 1
    return .read(range)
  }

  /// Where a window ends that starts there, `limit` at most.
  private func end(from start: Sector, limit: Sector) -> Sector {
    var position = start
    // In parts of a sector.
    var rest = window * Self.holePart
    var index = nextHole
    while rest > .zero, position < limit {
      let hole = index < holes.count ? holes[index] : limit..<limit
      if position < hole.lowerBound {
        let data = min(
          Sector(rest.rawValue / Self.holePart), min(hole.lowerBound, limit) - position)
        guard data > .zero else { break }
        position += data
        rest -= data * Self.holePart
      } else {
        let zeroes = min(rest, min(hole.upperBound, limit) - position)
        position += zeroes
        rest -= zeroes
        index += 1
      }
    }
    return position
  }

  /// Takes in what became of a window, and how long it took: what is done is known by windows, so
  /// that they must not take long.
  mutating func finish(
    copied: RangeSet<Sector>, failed: RangeSet<Sector>, after duration: Duration
  ) {
    inFlight -= 1
    if duration < .milliseconds(250) {
      // Each window costs a little: where they are over at once they may soon be large.
      window = min(largestWindow, window * (duration < .milliseconds(50) ? 4 : 2))
    } else if duration > .seconds(1) {
      window = max(min(largestWindow, Self.smallestWindow), Sector(window.rawValue / 2))
    }
    for range in copied.ranges { map.set(range, .finished) }
    for range in failed.ranges { map.set(range, .nonTrimmed) }
    if !failed.isEmpty { hasStopped = true }
  }
}
