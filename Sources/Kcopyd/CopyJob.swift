import BlockIO
import Synchronization

/// One job: cuts itself into segments and runs several of them – sub-jobs – at once. Each reads
/// its segment into pages on loan and writes these to all destinations.
actor CopyJob {
  /// What a client lends its jobs.
  struct Resources: Sendable {
    let loop: IOLoop
    let pool: PagePool
    let throttle: Throttle?
    let subJob: Sector
    let parallelism: Int
  }

  nonisolated let plan: CopyPlan
  nonisolated let progress: CopyProgress?
  private nonisolated let isCancelled = Atomic<Bool>(false)
  let resources: Resources
  /// Only while the job runs: it holds the files, and who closes a device after the notification
  /// must find it closed.
  private var pageCachedCopy: PageCachedCopy?
  let zeroesByCommand: Bool

  /// Whether destinations are read and compared before they are written.
  private let readsDestinations: Bool
  /// The longest piece that lies in memory.
  private let subJob: Sector

  private var cursor: SegmentCursor
  var readFailures = FailureLog()
  var destinations: [CopyResult.Destination]
  /// Destinations still written to.
  var active: [Int]
  var isStopped = false
  /// Whether it was a write that ended the job: nothing more is written in order then, whereas
  /// after a failed read everything in front of it is.
  var hasWriteStopped = false
  /// Whether a segment that had been taken was left because the job was cancelled.
  var hasGivenUp = false
  /// The order of writes, where it matters.
  let turns: SegmentTurns?
  /// The order in which the observer sees segments.
  private let views: SegmentTurns?

  nonisolated var unownedExecutor: UnownedSerialExecutor {
    resources.loop.asUnownedSerialExecutor()
  }

  /// Zeroing by command moves no data, so that its segments may be larger than a sub-job.
  private static let zeroSegment = Sector(holding: 16 << 20)

  init(_ plan: CopyPlan, resources: Resources, progress: CopyProgress?) {
    self.plan = plan
    self.resources = resources
    self.progress = progress
    active = plan.activeDestinations
    destinations = .init(repeating: .init(), count: plan.destinations.count)
    zeroesByCommand =
      plan.source == nil
      && plan.destinations.allSatisfy {
        $0.count == .zero || $0.device.limits.supportsWriteZeroes
      }
    turns = plan.options.contains(.sequentialWrites) ? SegmentTurns() : nil
    views = plan.content?.observer.map { _ in SegmentTurns() }
    // Two pieces must fit into the reserve at the same time where one is compared with the other.
    let half = Sector(UInt64(resources.pool.pageCount / 2 * PagePool.pageSize) / Sector.byteCount)
    readsDestinations = plan.content?.differencesOnly ?? false
    subJob = readsDestinations ? max(1, min(resources.subJob, half)) : resources.subJob
    let zeroSegment = max(resources.subJob, Self.zeroSegment)
    let isBlank = plan.activeDestinations.allSatisfy {
      plan.content?.blankDestinations.contains($0) ?? false
    }
    // An observer takes its time, and a cancellation mustn't wait for it.
    let hasObserver = plan.content?.observer != nil
    let takesHolesWhole = isBlank && !hasObserver
    cursor = SegmentCursor(
      count: plan.count, segment: zeroesByCommand ? zeroSegment : subJob, order: plan.order,
      holes: plan.content?.holes ?? .init(),
      holeSegment: readsDestinations ? subJob : takesHolesWhole ? Sector(.max) : zeroSegment)
  }

  /// No further segment is taken; those under way are finished. From any thread.
  nonisolated func cancel() { isCancelled.store(true, ordering: .relaxed) }

  /// Does the job.
  func run() async -> CopyResult {
    if plan.isEmpty { return finish() }
    pageCachedCopy = makePageCachedCopy()
    if plan.count <= subJob || parallelism == 1 {
      await runSubJob()
    } else {
      await withDiscardingTaskGroup { group in
        for _ in 0..<parallelism {
          group.addTask(executorPreference: resources.loop) { await self.runSubJob() }
        }
      }
    }
    return finish()
  }

  private func finish() -> CopyResult {
    pageCachedCopy = nil
    let isAtEnd = plan.isEmpty || cursor.isAtEnd
    if !isAtEnd {
      for index in plan.activeDestinations { destinations[index].missing.insert(cursor.rest) }
    }
    return CopyResult(
      count: plan.count,
      ending: isStopped ? .stoppedByError : isAtEnd && !hasGivenUp ? .finished : .cancelled,
      readFailures: readFailures, destinations: destinations)
  }

  /// How many sub-jobs run at once.
  private var parallelism: Int {
    if plan.sourceOverlaps { return 1 }
    // Those that wait for the observer leave the threads to others.
    guard pageCachedCopy != nil, views == nil else { return resources.parallelism }
    return min(resources.parallelism, PageCachedCopy.parallelism(on: resources.loop))
  }

  private var wantsNoMore: Bool { mustEnd || cursor.isAtEnd || active.isEmpty }

  private var mustEnd: Bool { isStopped || wasCancelled }

  var wasCancelled: Bool { isCancelled.load(ordering: .relaxed) || Task.isCancelled }

  private func runSubJob() async {
    while !wantsNoMore {
      // Zeros need no memory, unless they are compared with something.
      guard plan.source != nil, readsDestinations || !cursor.isAtHole else {
        guard let segment = cursor.next() else { return }
        await zero(segment)
        continue
      }
      let each = PagePool.pages(holding: min(subJob, cursor.rest.length))
      let pages = await resources.pool.take(readsDestinations ? 2 * each : each)
      // The job may have ended while this waited for its pages, or have come to a hole.
      guard !wantsNoMore else { return pages.giveBack() }
      let isHole = cursor.isAtHole
      if isHole && !readsDestinations {
        pages.giveBack()
        continue
      }
      guard let segment = cursor.next(segments: runLength) else { return pages.giveBack() }
      let length = min(segment.length, subJob)
      let second = Sector(UInt64(each * PagePool.pageSize) / Sector.byteCount)
      let scratch = readsDestinations ? pages.buffer.slice(second, length) : nil
      let buffer = pages.buffer.slice(.zero, length)
      if isHole { buffer.clear() }
      await copy(segment, through: buffer, scratch: scratch, isRead: isHole)
      pages.giveBack()
    }
  }

  /// How many segments are done in one go: within the page cache as many as make handing them to
  /// a thread cost nothing, and fewer and fewer so that all threads end together.
  private var runLength: UInt64 {
    guard pageCachedCopy != nil, views == nil, resources.throttle?.isOpen ?? true else { return 1 }
    let turns = plan.options.contains(.oneOfMany) ? 1 : 4
    let share = cursor.rest.length.rawValue / UInt64(turns * parallelism)
    return max(1, min(PageCachedCopy.longestRun.rawValue, share) / subJob.rawValue)
  }

  // MARK: Stages

  /// An I/O of the throttled group. Charged by the bytes only once per segment.
  private func stage(bytes: UInt64, _ body: () async -> Void) async {
    guard let throttle = resources.throttle else { return await body() }
    await throttle.start(bytes: bytes, on: resources.loop) { self.mustEnd }
    await body()
    throttle.end(on: resources.loop)
  }

  /// - Parameter isRead: whether `buffer` holds the segment already.
  private func copy(
    _ segment: Range<Sector>, through buffer: IOBuffer, scratch: IOBuffer?, isRead: Bool
  ) async {
    let bytes = segment.length.bytes
    if let pageCachedCopy {
      var isRead = false
      await stage(bytes: bytes) {
        isRead = await copyAtOnce(segment, through: buffer, with: pageCachedCopy)
      }
      // Its pages hold one segment, and a run is one where there is an observer.
      if isRead { await observe(segment, buffer) }
      return
    }
    var isRead = isRead
    await stage(bytes: bytes) {
      if isRead {
        progress?.addRead(segment.length)
      } else {
        isRead = await read(segment, into: buffer)
      }
    }
    guard isRead else { return abandon(segment, wasRead: false) }
    await finish(segment, .bytes(buffer, scratch: scratch), bytes: 0)
  }

  /// A segment of a zeroing job, or a hole.
  private func zero(_ segment: Range<Sector>) async {
    if plan.source != nil { progress?.addRead(segment.length) }
    await finish(segment, .zeroes, bytes: segment.length.bytes)
  }

  /// Writes a segment when it is its turn, while it is observed.
  private func finish(_ segment: Range<Sector>, _ data: SegmentData, bytes: UInt64) async {
    if let turns, await !turns.wait(for: segment) { return abandon(segment, wasRead: true) }
    if views == nil {
      await stage(bytes: bytes) { await write(segment, data) }
    } else {
      let view: IOBuffer? = if case .bytes(let buffer, _) = data { buffer } else { nil }
      async let isObserved: Void = observe(segment, view)
      await stage(bytes: bytes) { await write(segment, data) }
      await isObserved
    }
    turns?.pass(segment, goesOn: !hasWriteStopped)
  }

  /// Shows a segment to the observer when it is its turn.
  private func observe(_ segment: Range<Sector>, _ data: IOBuffer?) async {
    guard let views, let observer = plan.content?.observer, await views.wait(for: segment) else {
      return
    }
    await observer.observe(segment, data)
    views.pass(segment, goesOn: true)
  }

  /// The segment isn't written, because it couldn't be read or because its turn never comes.
  func abandon(_ segment: Range<Sector>, wasRead: Bool) {
    for index in plan.activeDestinations {
      destinations[index].missing.insert(segment)
      if wasRead { destinations[index].wasAbandoned = true }
    }
    turns?.pass(segment, goesOn: false)
    views?.pass(segment, goesOn: false)
  }
}

extension IOFailure {
  /// The part of `segment` – counted from the start of the region at `start` – that failed.
  func place(in segment: Range<Sector>, start: Sector) -> Range<Sector> {
    let region = segment.shifted(by: start)
    guard let sectors, sectors.overlaps(region) else { return segment }
    let failed = sectors.clamped(to: region)
    return failed.lowerBound - start..<failed.upperBound - start
  }
}
