public import BlockIO

/// The order in which a source with errors is read: ddrescue's. Pure – asked for the next range,
/// told what became of it.
///
/// 1. Copying: forwards in large reads, skipping ahead after an error, by more each time; then
///    backwards over what was skipped, leaving the rest of an area at its first error; two passes
///    like that over what was left for being slow; one over the rest without skipping.
/// 2. Trimming: from both edges of each failed read, block by block, up to the first bad one.
/// 3. Scraping: block by block what lies between.
/// 4. Retrying: bad blocks again, in turns forwards and backwards.
///
/// Several reads may be under way while copying forwards; after an error one at a time, until
/// there are good data again.
public struct RescuePlan: Sendable {
  /// How it is done.
  public struct Options: Hashable, Sendable {
    /// The smallest piece that is read, a sector of the device.
    public var block: Sector = 1
    /// The size of a read while copying.
    public var cluster: Sector = 128
    /// How much is skipped after the first error; 0 skips nothing.
    public var initialSkip: Sector = 128
    /// The most that is skipped.
    public var maximumSkip: Sector = 128
    /// Whether failed reads are trimmed.
    public var trims = true
    /// Whether what is left between is read block by block.
    public var scrapes = true
    /// How often bad blocks are read again; nil until all are good.
    public var retries: Int? = 0
    /// How many reads may be under way while copying.
    public var readsInFlight = 8
    /// Whether areas that failed before are copied in large reads first.
    public var triesAgain = false

    /// ddrescue's defaults for a source of that length.
    public init(count: Sector = 0, block: Sector = 1) {
      self.block = max(1, block)
      cluster = max(128, self.block)
      let hundredth = Sector(count.rawValue / 100)
      initialSkip = max(128, Sector(count.rawValue / 100_000))
      maximumSkip = max(initialSkip, hundredth)
    }
  }

  /// What to do next.
  public enum Step: Hashable, Sendable {
    /// Read these sectors, and report by ``finish(_:good:wasSlow:)``.
    case read(Range<Sector>)
    /// Nothing before a read under way has ended.
    case wait
    /// Nothing is left.
    case done
  }

  /// What is known of each sector. Finished here is what has been read.
  public private(set) var map: StatusMap
  /// What is being done.
  public private(set) var phase: RescuePhase
  /// The pass of the phase, from 1 on.
  public private(set) var pass: Int
  /// Where it is: the begin of the next read of a forward pass, the end of that of a backward one.
  public private(set) var position: Sector

  private let domain: Range<Sector>
  private let options: Options
  private var skip: Sector
  /// Rises with every skip: good data of reads from before say nothing about what lies behind it.
  private var generation = 0
  private var flight: [(sectors: Range<Sector>, generation: Int)] = []
  /// Whether the last read while copying had failed: then one at a time.
  private var isCareful = false
  /// Whether areas were left for being slow.
  private var hasSkippedSlow = false
  private var retriesLeft: Int?

  /// A plan for the sectors `domain` that goes on where a phase and a pass left off.
  public init(
    _ map: StatusMap, domain: Range<Sector>, phase: RescuePhase = .copying, pass: Int = 1,
    position: Sector? = nil, options: Options
  ) {
    precondition(domain.upperBound <= map.count)
    self.map = map
    self.domain = domain
    var options = options
    // Reads start and end with blocks, as far as the domain does.
    options.cluster = Self.whole(options.cluster, options.block)
    options.initialSkip = Self.whole(options.initialSkip, options.block)
    options.maximumSkip = max(
      options.initialSkip, Self.whole(options.maximumSkip, options.block))
    self.options = options
    skip = options.initialSkip
    retriesLeft = options.retries
    self.phase = .copying
    self.pass = 1
    self.position = domain.lowerBound
    if options.triesAgain {
      for range in map.sectors([.nonTrimmed, .nonScraped], in: domain).ranges {
        self.map.set(range, .nonTried)
      }
      return
    }
    let hasNonTried = map.first([.nonTried], in: domain) != nil
    if phase == .copying, (1...Self.copyingPasses).contains(pass) {
      self.pass = pass
    } else if !hasNonTried, phase == .retrying, options.retries != 0,
      map.first([.nonTrimmed, .nonScraped], in: domain) == nil
    {
      // The pass that was under way is the first one of this run.
      self.phase = .retrying
      self.pass = max(1, pass)
      if let left = retriesLeft { retriesLeft = left - 1 }
    } else {
      return
    }
    hasSkippedSlow = true
    self.position = start
    if let position, domain.contains(position) || position == domain.upperBound {
      self.position = position
    }
  }

  /// The last pass of copying: the one that skips nothing.
  static let copyingPasses = 5

  private static func whole(_ sectors: Sector, _ block: Sector) -> Sector {
    Sector((sectors.rawValue + block.rawValue - 1) / block.rawValue * block.rawValue)
  }

  /// Whether this pass goes forwards.
  public var isForward: Bool {
    phase == .copying || phase == .retrying ? pass % 2 == 1 : true
  }

  private var start: Sector { isForward ? domain.lowerBound : domain.upperBound }

  /// What lies before this pass.
  private var rest: Range<Sector> {
    isForward
      ? min(position, domain.upperBound)..<domain.upperBound
      : domain.lowerBound..<max(position, domain.lowerBound)
  }

  // MARK: Asking

  /// What to do next.
  public mutating func next() -> Step {
    while true {
      if phase == .trimming { leaveTrimmed() }
      if let range = nextRange() {
        guard mayRead() else { return .wait }
        advance(over: range)
        flight.append((range, generation))
        return .read(range)
      }
      // The next pass depends on what becomes of this one.
      guard flight.isEmpty else { return .wait }
      guard beginNextPass() else { return .done }
    }
  }

  private func mayRead() -> Bool {
    guard !flight.isEmpty else { return true }
    return phase == .copying && !isCareful && flight.count < options.readsInFlight
  }

  private func nextRange() -> Range<Sector>? {
    switch phase {
    case .copying: edge(of: .nonTried, size: options.cluster)
    case .retrying: edge(of: .badSector, size: options.block)
    case .trimming: trimmingRange()
    case .scraping: edge(of: .nonScraped, size: options.block)
    case .filling, .generating, .finished: nil
    }
  }

  /// The nearest piece of a status, up to a multiple of `size`.
  private func edge(of status: BlockStatus, size: Sector) -> Range<Sector>? {
    if isForward {
      guard let run = map.first([status], in: rest)?.sectors else { return nil }
      return run.lowerBound..<min(run.upperBound, Self.multiple(of: size, above: run.lowerBound))
    }
    guard let run = map.last([status], in: rest)?.sectors else { return nil }
    return max(run.lowerBound, Self.multiple(of: size, below: run.upperBound))..<run.upperBound
  }

  private static func multiple(of size: Sector, above sector: Sector) -> Sector {
    Sector((sector.rawValue / size.rawValue + 1) * size.rawValue)
  }

  private static func multiple(of size: Sector, below sector: Sector) -> Sector {
    Sector((sector.rawValue - 1) / size.rawValue * size.rawValue)
  }

  /// The leading edge of the first failed read, unless a bad block lies before it, then the
  /// trailing one.
  private func trimmingRange() -> Range<Sector>? {
    guard let run = map.first([.nonTrimmed], in: domain)?.sectors else { return nil }
    if run.lowerBound == domain.lowerBound || map[run.lowerBound - 1] != .badSector {
      let end = Self.multiple(of: options.block, above: run.lowerBound)
      return run.lowerBound..<min(run.upperBound, end)
    }
    let start = Self.multiple(of: options.block, below: run.upperBound)
    return max(run.lowerBound, start)..<run.upperBound
  }

  /// A failed read between bad blocks has nothing left to trim.
  private mutating func leaveTrimmed() {
    while let run = map.first([.nonTrimmed], in: domain)?.sectors,
      run.lowerBound > domain.lowerBound, map[run.lowerBound - 1] == .badSector,
      run.upperBound < domain.upperBound, map[run.upperBound] == .badSector
    {
      map.set(run, .nonScraped)
    }
  }

  private mutating func advance(over range: Range<Sector>) {
    position = isForward ? range.upperBound : range.lowerBound
  }

  // MARK: Passes

  /// Goes on to the next pass that may have something to do; false when there is none.
  private mutating func beginNextPass() -> Bool {
    switch phase {
    case .copying:
      if pass < Self.copyingPasses {
        // The third and the fourth are for what was slow.
        pass = pass == 2 && !hasSkippedSlow ? 5 : pass + 1
      } else if map.first([.nonTried], in: domain) != nil {
        // What was under way where the run before was cut off may lie before its position.
        pass = Self.copyingPasses
      } else {
        (phase, pass) = (.trimming, 1)
      }
    case .trimming: (phase, pass) = (.scraping, 1)
    case .scraping: return beginRetry(pass: 1)
    case .retrying: return beginRetry(pass: pass + 1)
    case .filling, .generating, .finished: return false
    }
    if phase == .trimming && !options.trims || phase == .scraping && !options.scrapes {
      return beginNextPass()
    }
    skip = options.initialSkip
    isCareful = false
    position = start
    return true
  }

  private mutating func beginRetry(pass: Int) -> Bool {
    guard retriesLeft != 0, map.first([.badSector], in: domain) != nil else {
      (phase, self.pass) = (.finished, 1)
      position = domain.upperBound
      return false
    }
    if let left = retriesLeft { retriesLeft = left - 1 }
    (phase, self.pass) = (.retrying, pass)
    position = start
    return true
  }

  // MARK: Outcomes

  /// Takes in what needs no reading: it is there, and none of it is being read.
  public mutating func settle(_ sectors: RangeSet<Sector>) {
    for range in sectors.ranges { map.set(range, .finished) }
  }

  /// Takes in what became of a read: the first `good` of its sectors could be read.
  ///
  /// - Parameter wasSlow: whether it took too long; while copying the area is left for later.
  public mutating func finish(_ range: Range<Sector>, good: Sector, wasSlow: Bool = false) {
    guard let index = flight.firstIndex(where: { $0.sectors == range }) else {
      preconditionFailure("a read that wasn't asked for")
    }
    let read = flight.remove(at: index)
    // Whole blocks only: the device reads no less.
    let whole =
      good < range.length
      ? max(
        range.lowerBound,
        Sector((range.lowerBound + good).rawValue / options.block.rawValue * options.block.rawValue)
      )
      : range.upperBound
    map.set(range.lowerBound..<whole, .finished)
    let failed = whole..<range.upperBound
    if phase == .copying { return finishCopying(range, failed, read.generation, wasSlow) }
    map.set(failed, .badSector)
  }

  private mutating func finishCopying(
    _ range: Range<Sector>, _ failed: Range<Sector>, _ readGeneration: Int, _ wasSlow: Bool
  ) {
    if !failed.isEmpty {
      // A block by itself has nothing to trim.
      map.set(failed, range.length <= options.block ? .badSector : .nonTrimmed)
    }
    guard !failed.isEmpty || (wasSlow && pass <= 2) else {
      if readGeneration == generation {
        skip = options.initialSkip
        isCareful = false
      }
      return
    }
    if failed.isEmpty { hasSkippedSlow = true }
    isCareful = !failed.isEmpty || isCareful
    generation += 1
    guard options.initialSkip > .zero, pass != Self.copyingPasses else { return }
    if pass == 1 || failed.isEmpty {
      leap(from: range)
      skip = min(options.maximumSkip, skip * 2)
    } else {
      leaveArea(of: range)
    }
  }

  private mutating func leap(from range: Range<Sector>) {
    if isForward {
      position = max(position, min(domain.upperBound, range.upperBound + skip))
    } else {
      let target = range.lowerBound - min(skip, range.lowerBound)
      position = min(position, max(domain.lowerBound, target))
    }
  }

  /// Goes to where the area that hasn't been tried and in which `range` lay ends.
  private mutating func leaveArea(of range: Range<Sector>) {
    if isForward {
      guard range.upperBound < domain.upperBound, map[range.upperBound] == .nonTried,
        let run = map.first([.nonTried], in: range.upperBound..<domain.upperBound)
      else { return }
      position = max(position, run.sectors.upperBound)
    } else {
      guard range.lowerBound > domain.lowerBound, map[range.lowerBound - 1] == .nonTried,
        let run = map.last([.nonTried], in: domain.lowerBound..<range.lowerBound)
      else { return }
      position = min(position, run.sectors.lowerBound)
    }
  }
}
