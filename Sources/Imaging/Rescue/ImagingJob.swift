public import BlockIO
public import Kcopyd
import Synchronization

/// A copy that knows what is where: it goes on where it was cut off, and – as a rescue – around
/// what can't be read.
///
/// All destinations are served from one reading. Every few seconds, and at the end, they are
/// flushed, and then the map says what is durable on all of them. A destination that fails is left
/// alone; it is brought up by the next run with the same map.
public actor ImagingJob {
  /// What to do with sectors that couldn't be read.
  public enum Fill: String, CaseIterable, Sendable {
    /// They become zeros.
    case zeros
    /// They become a text that names the sector.
    case marker
  }

  /// How it is done.
  public struct Options: Sendable {
    /// A rescue in this order; nil for a copy that ends at the first read error.
    public var rescue: RescuePlan.Options?
    /// What becomes of lost sectors when everything has been tried; nil leaves them as they are.
    public var fill: Fill?
    /// End when more reads than that have failed.
    public var maximumErrors: Int?
    /// End when nothing could be read for that long.
    public var timeout: Duration?
    /// Bytes per second below which a read counts as slow.
    public var minimumReadRate: UInt64?
    /// How often it is flushed and the map written.
    public var saveInterval = Duration.seconds(5)
    /// Whether it is made durable at all.
    public var flushes = true
    /// How the engine copies, where it does.
    public var copyOptions: CopyOptions = .dropFailedDestinations
    /// What is known of the content, and what is made of it. Destinations that are blank hold
    /// nothing that is to be gone on with. A rescue doesn't look for differences, and isn't
    /// observed; elsewhere the observer sees everything in order, for which what is finished is
    /// read once more.
    public var content: CopyContent?
    /// The most data that the engine is given at once: less where that takes longer than a second.
    public var window = Sector(holding: 256 << 20)

    /// A copy without a rescue.
    public init() {}
  }

  /// Where the map is kept, and what stands in it beside what the job knows.
  public struct Keeping: Sendable {
    let store: MapStore
    let record: ProgressRecord
    let comments: @Sendable () -> [String]

    /// - Parameters:
    ///   - record: source, region, and the destinations of the job in their order, behind them
    ///     those that aren't among its destinations.
    ///   - comments: the heading of the mapfile.
    public init(
      _ store: MapStore, record: ProgressRecord, comments: @escaping @Sendable () -> [String]
    ) {
      self.store = store
      self.record = record
      self.comments = comments
    }
  }

  enum Order: Sendable {
    case rescue(RescuePlan)
    case straight(StraightPlan)

    var map: StatusMap {
      switch self {
      case .rescue(let plan): plan.map
      case .straight(let plan): plan.map
      }
    }

    /// Whether anything is left to be tried.
    var hasWork: Bool {
      switch self {
      case .rescue(var plan): plan.next() != .done
      case .straight(let plan): !plan.isFinished
      }
    }

    mutating func next() -> RescuePlan.Step {
      switch self {
      case .rescue(var plan):
        defer { self = .rescue(plan) }
        return plan.next()
      case .straight(var plan):
        defer { self = .straight(plan) }
        return plan.next()
      }
    }
  }

  let source: IORegion
  let targets: [IORegion]
  let client: KcopydClient
  let options: Options
  /// What of the source needn't be read; sectors of the source.
  private let holes: RangeSet<Sector>
  let keeping: Keeping?
  private let finishedBefore: Sector
  let pool: PagePool

  var order: Order
  var ledger: Ledger
  var filled: [RangeSet<Sector>]
  var samples: [ProgressRecord.Sample]
  var mapFailure: IOFailure?
  private var readErrors = 0
  private var readFailures: [IOFailure] = []
  private var lastGoodRead: LoopInstant?
  private var ending: ImagingResult.Ending?
  var isOver = false
  private var outcomes = 0
  /// Copies that the engine makes.
  var copies: [Int: Task<Result<CopyResult, KcopydError>, Never>] = [:]
  private var copyCount = 0
  private let changed = Gate()
  private nonisolated let isCancelled = Atomic<Bool>(false)

  nonisolated var loop: IOLoop { client.loop }

  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    client.loop.asUnownedSerialExecutor()
  }

  /// A job from `source` to `targets`, all of the same length, that goes on from `resumption`.
  ///
  /// - Throws: when there is no memory for what is under way.
  public init(
    from source: IORegion, to targets: [IORegion], resuming resumption: Resumption,
    keeping: Keeping?, options: Options, client: KcopydClient
  ) throws(IOFailure) {
    precondition(targets.allSatisfy { $0.count == source.count })
    self.source = source
    self.targets = targets
    self.client = client
    var options = options
    if options.rescue != nil { options.content?.observer = nil }
    self.options = options
    self.keeping = keeping
    holes = options.content?.holes.shifted(by: source.sector) ?? RangeSet()
    samples = resumption.samples
    ledger = Ledger(durable: resumption.durable)
    filled = Array(repeating: RangeSet(), count: targets.count)
    let map = resumption.statuses
    finishedBefore = map.sectors([.finished], in: source.sectors).sectorCount
    if let rescue = options.rescue {
      order = .rescue(
        RescuePlan(
          map, domain: source.sectors, phase: resumption.phase, pass: resumption.pass,
          position: resumption.position, options: rescue))
      let each = PagePool.pages(holding: max(rescue.cluster, rescue.block))
      pool = try PagePool(pageCount: each * max(1, rescue.readsInFlight) + 1)
    } else {
      order = .straight(
        StraightPlan(
          map, domain: source.sectors, holes: holes, window: options.window,
          isObserved: options.content?.observer != nil))
      pool = try PagePool(pageCount: 1)
    }
  }

  /// Starts nothing new; what is under way is finished and made durable.
  public nonisolated func cancel() { isCancelled.store(true, ordering: .relaxed) }

  nonisolated var wasCancelled: Bool { isCancelled.load(ordering: .relaxed) }

  // MARK: The course

  /// Writes the map as it is at the beginning: where that fails, nothing has been copied yet.
  public func begin() async throws(IOFailure) {
    await save()
    if let mapFailure { throw mapFailure }
  }

  /// Does it.
  public func run() async -> ImagingResult {
    lastGoodRead = loop.now
    await withDiscardingTaskGroup { group in
      group.addTask(executorPreference: loop) { await self.keepSaving() }
      if options.rescue != nil { await settleHoles() }
      await withDiscardingTaskGroup { workers in
        let count = options.rescue?.readsInFlight ?? 2
        for _ in 0..<max(1, count) {
          workers.addTask(executorPreference: loop) { await self.work() }
        }
      }
      isOver = true
    }
    // If nothing was left, nothing was cut off.
    if ending == .cancelled, !order.hasWork { ending = .finished }
    if (ending ?? .finished) == .finished, let fill = options.fill { await fillLost(fill) }
    await flushAndSave()
    return result
  }

  /// Takes back what a look at the destinations has found not to be there – sectors of the source,
  /// by destination – and writes the map once more. After ``run()``.
  public func takeBack(_ absent: [RangeSet<Sector>]) async -> ImagingResult {
    for (index, sectors) in absent.enumerated() { ledger.note(absent: sectors, at: index) }
    await save()
    return result
  }

  private var result: ImagingResult {
    ImagingResult(
      ending: ending ?? .finished, region: source.sectors, map: order.map,
      destinations: ledger.destinations.enumerated().map { index, destination in
        .init(
          written: destination.written, durable: destination.durable, filled: filled[index],
          failure: destination.failure)
      },
      readErrors: readErrors, readFailures: readFailures, mapFailure: mapFailure,
      finishedBefore: finishedBefore)
  }

  /// A rescue begins with what it needn't read.
  private func settleHoles() async {
    let finished = order.map.sectors([.finished], in: source.sectors)
    for hole in holes.subtracting(finished).ranges {
      var rest = hole
      while !rest.isEmpty {
        checkEnd()
        guard ending == nil else { return }
        let piece = rest.lowerBound..<min(rest.upperBound, rest.lowerBound + Self.largestHole)
        rest = piece.upperBound..<rest.upperBound
        let settled = await move(piece).copied
        guard case .rescue(var plan) = order else { return }
        plan.settle(settled)
        order = .rescue(plan)
      }
    }
  }

  /// As much of a hole as is dealt with at once: a command each 16 MiB, or none.
  private static let largestHole = Sector(holding: 1 << 30)

  private func work() async {
    while let range = await nextRange() {
      if options.rescue != nil {
        await rescue(range)
      } else {
        await copy(range)
      }
      outcomes += 1
      changed.open()
    }
  }

  private func nextRange() async -> Range<Sector>? {
    while true {
      checkEnd()
      guard ending == nil else { return nil }
      switch order.next() {
      case .read(let range): return range
      case .done: return nil
      case .wait:
        // Something is under way then, and its end opens the gate.
        let seen = outcomes
        await changed.wait { outcomes == seen }
      }
    }
  }

  private func checkEnd() {
    guard ending == nil else { return }
    if wasCancelled {
      ending = .cancelled
    } else if ledger.alive.isEmpty {
      ending = .noDestination
    } else if let maximum = options.maximumErrors, readErrors > maximum {
      ending = .tooManyErrors
    } else if let timeout = options.timeout, let last = lastGoodRead,
      last.duration(to: loop.now) > timeout, readErrors > 0
    {
      ending = .timeout
    }
  }

  // MARK: Notes

  func noteGoodRead() { lastGoodRead = loop.now }

  func note(readFailure: IOFailure) {
    readErrors += 1
    if readFailures.count < 10 { readFailures.append(readFailure) }
  }

  func end(_ why: ImagingResult.Ending) { ending = ending ?? why }

  func begin(_ copy: Task<Result<CopyResult, KcopydError>, Never>) -> Int {
    copyCount += 1
    copies[copyCount] = copy
    if wasCancelled { copy.cancel() }
    return copyCount
  }

  func end(_ copy: Int) { copies[copy] = nil }

  // MARK: Watching

  /// How far it is.
  public var snapshot: ImagingSnapshot {
    var snapshot = ImagingSnapshot()
    for run in order.map.runs {
      let part = run.sectors.clamped(to: source.sectors)
      guard !part.isEmpty else { continue }
      snapshot.bytes[run.status, default: 0] += part.length.bytes
      if run.status == .badSector { snapshot.badAreas += 1 }
    }
    switch order {
    case .rescue(let plan):
      snapshot.phase = plan.phase
      snapshot.pass = plan.pass
      snapshot.isForward = plan.isForward
      snapshot.position = plan.position
    case .straight(let plan): snapshot.position = plan.position
    }
    snapshot.readErrors = readErrors
    snapshot.sinceGoodRead = lastGoodRead.map { $0.duration(to: loop.now) } ?? .zero
    snapshot.destinations = ledger.destinations.map {
      ($0.written.sectorCount.bytes, $0.durable.sectorCount.bytes, $0.failure != nil)
    }
    snapshot.mapHasFailed = mapFailure != nil
    return snapshot
  }
}
