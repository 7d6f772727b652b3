public import BlockIO
import DequeModule
import Synchronization

/// A client of the copy engine: a page reserve, and jobs that share it.
///
/// Jobs copy one region to up to 64 others, or zero regions, asynchronously. There are two ways to
/// start one: `await copy(…)` returns the result; the form with `notify` returns at once and calls
/// back – exactly once, on the client's loop, never from within the starting call, never two at
/// once, in the order in which jobs end. Any number of jobs may be under way; there is no order
/// between them, so let none read what another one writes.
///
/// The engine never flushes: who needs durability flushes the destinations afterwards.
public actor KcopydClient {
  /// The most destinations of one job.
  public static let maximumDestinations = 64
  /// The size of a sub-job unless another one is asked for.
  public static let defaultSubJob = Sector(holding: 512 << 10)
  /// The largest sub-job; larger ones are cut down to it.
  public static let maximumSubJob = Sector(holding: 1 << 20)
  /// How many sub-jobs of one job run at once.
  public static let subJobsInFlight = 8

  /// The loop on which everything runs.
  public nonisolated let loop: IOLoop
  /// How many pages of 4096 bytes are reserved.
  public nonisolated var pageCount: Int { resources.pool.pageCount }
  /// The size of a sub-job.
  public nonisolated var subJob: Sector { resources.subJob }
  /// The throttle the client was made with.
  public nonisolated var throttle: Throttle? { resources.throttle }

  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  private nonisolated let resources: CopyJob.Resources
  /// Jobs not yet over. Who ends the last one looks whether anyone waits for that; who starts to
  /// wait looks whether any job is left: with sequential consistency one of them sees the other.
  private nonisolated let jobs = Atomic<Int>(0)
  private nonisolated let isDestroyed = Atomic<Bool>(false)
  private nonisolated let destroyers = Mutex<[UnsafeContinuation<Void, Never>]>([])

  private typealias Notification = @Sendable () -> Void
  /// Jobs that have ended, to be notified in that order.
  private var complete: Deque<Notification> = []
  /// Notifications that needed no I/O: they go behind those that are complete already.
  private var callbacks: Deque<Notification> = []

  /// Makes a client and reserves its pages.
  ///
  /// - Parameters:
  ///   - pages: the reserve in pages of 4096 bytes; nil for as many as keep all sub-jobs of one
  ///     job going.
  ///   - subJob: the size of a piece that is read and written as one; 0 for 512 KiB, at most
  ///     1 MiB.
  ///   - throttle: slows this client down, together with all others made with the same one.
  ///   - loop: where everything runs.
  /// - Throws: when the reserve can't hold one sub-job, or the system hasn't that much memory.
  public init(
    pages: Int? = nil, subJob: Sector = .zero, throttle: Throttle? = nil, on loop: IOLoop
  ) throws(KcopydError) {
    let size = subJob == .zero ? Self.defaultSubJob : min(subJob, Self.maximumSubJob)
    let needed = PagePool.pages(holding: size)
    let pages = pages ?? needed * Self.subJobsInFlight
    guard pages >= needed else { throw .reserveBelowSubJob(pages: pages, needed: needed) }
    let pool: PagePool
    do throws(IOFailure) {
      pool = try PagePool(pageCount: pages)
    } catch {
      throw .noMemory(pages: pages)
    }
    self.loop = loop
    resources = CopyJob.Resources(
      loop: loop, pool: pool, throttle: throttle, subJob: size,
      parallelism: Self.subJobsInFlight)
  }

  // MARK: Copying and zeroing

  /// Copies `source` to all `destinations`.
  ///
  /// The counts must be equal; a destination of 0 sectors is ignored, and an empty source is an
  /// empty job. Regions aren't compared with the sizes of their devices: what lies beyond the end
  /// fails like any other sector. A source may overlap a destination on the same device if all
  /// that do lie on one side of it; the job is then done in the order that keeps it intact.
  ///
  /// - Parameters:
  ///   - content: what is known of the content, and what is made of it; nil: nothing, and
  ///     everything is written.
  ///   - progress: told about every segment, while the job runs.
  /// - Returns: what became of it; errors of I/O are part of that. When the task is cancelled no
  ///   further segment is started.
  /// - Throws: when the regions make no sense. Nothing has been read or written then.
  public nonisolated func copy(
    from source: IORegion, to destinations: [IORegion], options: CopyOptions = [],
    content: CopyContent? = nil, progress: CopyProgress? = nil
  ) async throws(KcopydError) -> CopyResult {
    try beginJob()
    defer { endJob() }
    if content == nil, let result = copyOnTheSpot(source, destinations, progress) { return result }
    let plan = try CopyPlan(
      source: source, destinations: destinations, options: options, content: content)
    if let result = await copyInThisTask(plan, progress) { return result }
    return await CopyJob(plan, resources: resources, progress: progress).run()
  }

  /// Does a small job without a `CopyJob` if the caller is on the loop already and needn't wait for
  /// pages; nil otherwise.
  private nonisolated func copyInThisTask(
    _ plan: CopyPlan, _ progress: CopyProgress?
  ) async -> CopyResult? {
    guard loop.isCurrent, resources.throttle == nil, !Task.isCancelled,
      let copy = SmallCopy(plan, subJob: resources.subJob),
      let pages = resources.pool.tryTake(PagePool.pages(holding: plan.count))
    else { return nil }
    let result = await copy.run(through: pages.buffer, progress: progress)
    pages.giveBack()
    return result
  }

  /// Does a small job between files in the page cache here and now, without a job: that would
  /// cost more than the copy.
  ///
  /// - Returns: nil when that isn't possible, or anything isn't as it should be; the job is to be
  ///   done in the usual way then.
  private nonisolated func copyOnTheSpot(
    _ source: IORegion, _ destinations: [IORegion], _ progress: CopyProgress?
  ) -> CopyResult? {
    guard resources.throttle == nil, source.count <= PageCachedCopy.onTheSpotLimit,
      1...Self.maximumDestinations ~= destinations.count, source.isAddressable,
      destinations.allSatisfy(\.isAddressable),
      PageCachedCopy.onTheSpot(from: source, to: destinations, mayWait: !loop.isCurrent)
    else { return nil }
    if let progress {
      progress.addRead(source.count)
      for index in destinations.indices {
        progress.addWritten(source.count, destination: index)
      }
    }
    return CopyResult(count: source.count, destinationCount: destinations.count)
  }

  /// Fills all `destinations` with zeros: by command where every one of them can, otherwise by
  /// writing.
  public nonisolated func zero(
    _ destinations: [IORegion], options: CopyOptions = [], progress: CopyProgress? = nil
  ) async throws(KcopydError) -> CopyResult {
    let plan = try CopyPlan(source: nil, destinations: destinations, options: options)
    return try await running { resources async in
      await CopyJob(plan, resources: resources, progress: progress).run()
    }
  }

  /// Starts ``copy(from:to:options:content:progress:)`` and returns; `notify` is called with the result.
  @discardableResult
  public nonisolated func copy(
    from source: IORegion, to destinations: [IORegion], options: CopyOptions = [],
    content: CopyContent? = nil, progress: CopyProgress? = nil,
    notify: @escaping @Sendable (CopyResult) -> Void
  ) throws(KcopydError) -> CopyHandle {
    let plan = try CopyPlan(
      source: source, destinations: destinations, options: options, content: content)
    return try start(plan, progress, notify)
  }

  /// Starts ``zero(_:options:progress:)`` and returns; `notify` is called with the result.
  @discardableResult
  public nonisolated func zero(
    _ destinations: [IORegion], options: CopyOptions = [], progress: CopyProgress? = nil,
    notify: @escaping @Sendable (CopyResult) -> Void
  ) throws(KcopydError) -> CopyHandle {
    let plan = try CopyPlan(source: nil, destinations: destinations, options: options)
    return try start(plan, progress, notify)
  }

  /// Counts what `body` does as a job of the client.
  nonisolated func running<R>(
    _ body: (CopyJob.Resources) async -> R
  ) async throws(KcopydError) -> R {
    try beginJob()
    defer { endJob() }
    return await body(resources)
  }

  private nonisolated func start(
    _ plan: CopyPlan, _ progress: CopyProgress?, _ notify: @escaping @Sendable (CopyResult) -> Void
  ) throws(KcopydError) -> CopyHandle {
    try beginJob()
    let job = CopyJob(plan, resources: resources, progress: progress)
    Task(executorPreference: loop) {
      let result =
        if let source = plan.source, plan.content == nil,
          let result = self.copyOnTheSpot(source, plan.destinations, progress)
        {
          result
        } else {
          await job.run()
        }
      await self.finish(neededIO: !plan.isEmpty) { notify(result) }
    }
    return CopyHandle(job: job)
  }

  // MARK: Notifications

  /// Registers a notification that is to come later, in sequence with all others of the client,
  /// when the token is fired. It must be: ``destroy()`` waits for it.
  public nonisolated func prepareCallback(
    _ notify: @escaping @Sendable (_ readError: Bool, _ writeErrors: UInt64) -> Void
  ) throws(KcopydError) -> PreparedCallback {
    try beginJob()
    return PreparedCallback(loop: loop) { readError, writeErrors in
      await self.finish(neededIO: false) { notify(readError, writeErrors) }
    }
  }

  private func finish(neededIO: Bool, _ notify: @escaping Notification) {
    if neededIO {
      complete.append(notify)
    } else {
      callbacks.append(notify)
    }
    deliver()
  }

  /// One pass of the worker. A callback may start jobs; it can't get in here again, because
  /// nothing that it calls runs on the loop before it has returned.
  private func deliver() {
    complete.append(contentsOf: callbacks)
    callbacks.removeAll(keepingCapacity: true)
    while let notify = complete.popFirst() {
      notify()
      // Only now: whoever destroys the client may rely on its callbacks being over.
      endJob()
    }
  }

  // MARK: Life

  private nonisolated func beginJob() throws(KcopydError) {
    jobs.add(1, ordering: .sequentiallyConsistent)
    guard isDestroyed.load(ordering: .sequentiallyConsistent) else { return }
    endJob()
    throw .destroyed
  }

  private nonisolated func endJob() {
    let rest = jobs.subtract(1, ordering: .sequentiallyConsistent).newValue
    // The second look at the number: before the first at `isDestroyed` another job may have been
    // started, which `destroy()` then waits for.
    if rest == 0, isDestroyed.load(ordering: .sequentiallyConsistent),
      jobs.load(ordering: .sequentiallyConsistent) == 0
    {
      releaseDestroyers()
    }
  }

  private nonisolated func releaseDestroyers() {
    let waiting = destroyers.withLock { waiting in
      defer { waiting.removeAll() }
      return waiting
    }
    for destroyer in waiting { destroyer.resume() }
  }

  /// Waits for the notifications that are due. Not for I/O under way.
  public func flush() async {
    // Everything that was ready when this was called runs before it goes on.
    await Task.yield()
  }

  /// Waits until every job is over, every notification delivered and every prepared callback
  /// fired; jobs started after that are refused. The memory goes back with the last reference.
  public nonisolated func destroy() async {
    isDestroyed.store(true, ordering: .sequentiallyConsistent)
    await withUnsafeContinuation { continuation in
      destroyers.withLock { $0.append(continuation) }
      if jobs.load(ordering: .sequentiallyConsistent) == 0 { releaseDestroyers() }
    }
    precondition(resources.pool.freeCount == resources.pool.pageCount, "pages are still on loan")
  }
}

/// A job that was started with a notification.
public struct CopyHandle: Sendable {
  fileprivate let job: CopyJob

  /// Starts no further segment; those under way are finished, and the notification comes.
  public func cancel() { job.cancel() }
}

/// A notification to come; see ``KcopydClient/prepareCallback(_:)``.
public final class PreparedCallback: Sendable {
  private let loop: IOLoop
  private let deliver: @Sendable (Bool, UInt64) async -> Void
  private let isFired = Atomic<Bool>(false)

  fileprivate init(loop: IOLoop, deliver: @escaping @Sendable (Bool, UInt64) async -> Void) {
    self.loop = loop
    self.deliver = deliver
  }

  /// Lets the notification be called with these values. From any thread, without waiting; once.
  public func fire(readError: Bool = false, writeErrors: UInt64 = 0) {
    let wasFired = isFired.exchange(true, ordering: .relaxed)
    precondition(!wasFired, "a prepared callback may be fired once")
    Task(executorPreference: loop) { await self.deliver(readError, writeErrors) }
  }
}
