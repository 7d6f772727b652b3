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
  private let resources: Resources
  /// Only while the job runs: it holds the files, and who closes a device after the notification
  /// must find it closed.
  private var pageCachedCopy: PageCachedCopy?
  private let zeroesByCommand: Bool

  private var cursor: SegmentCursor
  private var readFailures = FailureLog()
  private var destinations: [CopyResult.Destination]
  /// Destinations still written to.
  private var active: [Int]
  private var isStopped = false
  /// Whether it was a write that ended the job: nothing more is written in order then, whereas
  /// after a failed read everything in front of it is.
  private var hasWriteStopped = false
  /// Whether a segment that had been taken was left because the job was cancelled.
  private var hasGivenUp = false
  /// The order of writes, where it matters.
  private let turns: WriteTurns?

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
    turns = plan.options.contains(.sequentialWrites) ? WriteTurns() : nil
    let segment = zeroesByCommand ? max(resources.subJob, Self.zeroSegment) : resources.subJob
    cursor = SegmentCursor(count: plan.count, segment: segment, order: plan.order)
  }

  /// No further segment is taken; those under way are finished. From any thread.
  nonisolated func cancel() { isCancelled.store(true, ordering: .relaxed) }

  /// Does the job.
  func run() async -> CopyResult {
    if plan.isEmpty { return finish() }
    // What must be ordered can't be left to threads.
    if let source = plan.source, turns == nil, !plan.sourceOverlaps {
      pageCachedCopy = PageCachedCopy(
        source: source.device, destinations: plan.destinations.map(\.device))
    }
    if plan.count <= resources.subJob || parallelism == 1 {
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
    guard pageCachedCopy != nil else { return resources.parallelism }
    return min(resources.parallelism, PageCachedCopy.parallelism(on: resources.loop))
  }

  private var wantsNoMore: Bool { mustEnd || cursor.isAtEnd || active.isEmpty }

  private var mustEnd: Bool { isStopped || wasCancelled }

  private var wasCancelled: Bool { isCancelled.load(ordering: .relaxed) || Task.isCancelled }

  private func runSubJob() async {
    while !wantsNoMore {
      guard plan.source != nil else {
        guard let segment = cursor.next() else { return }
        await zero(segment)
        continue
      }
      let wanted = min(resources.subJob, cursor.rest.length)
      let pages = await resources.pool.take(PagePool.pages(holding: wanted))
      // The job may have ended while this waited for its pages.
      guard !wantsNoMore, let segment = cursor.next(segments: runLength) else {
        return pages.giveBack()
      }
      let length = min(segment.length, resources.subJob)
      await copy(segment, through: pages.buffer.slice(.zero, length))
      pages.giveBack()
    }
  }

  /// How many segments are done in one go: within the page cache as many as make handing them to
  /// a thread cost nothing, and fewer and fewer so that all threads end together.
  private var runLength: UInt64 {
    guard pageCachedCopy != nil, resources.throttle == nil else { return 1 }
    let share = cursor.rest.length.rawValue / UInt64(4 * parallelism)
    return max(1, min(PageCachedCopy.longestRun.rawValue, share) / resources.subJob.rawValue)
  }

  // MARK: Stages

  /// An I/O of the throttled group. Charged by the bytes only once per segment.
  private func stage(bytes: UInt64, _ body: () async -> Void) async {
    guard let throttle = resources.throttle else { return await body() }
    await throttle.start(bytes: bytes, on: resources.loop) { self.mustEnd }
    await body()
    throttle.end(on: resources.loop)
  }

  private func copy(_ segment: Range<Sector>, through buffer: IOBuffer) async {
    let bytes = segment.length.bytes
    if let pageCachedCopy {
      return await stage(bytes: bytes) {
        await copyAtOnce(segment, through: buffer, with: pageCachedCopy)
      }
    }
    var isRead = false
    await stage(bytes: bytes) { isRead = await read(segment, into: buffer) }
    guard isRead else { return abandon(segment, wasRead: false) }
    if let turns, await !turns.wait(for: segment) { return abandon(segment, wasRead: true) }
    await stage(bytes: 0) { await write(segment, from: buffer) }
    turns?.pass(segment, goesOn: !hasWriteStopped)
  }

  private func zero(_ segment: Range<Sector>) async {
    if let turns, await !turns.wait(for: segment) { return abandon(segment, wasRead: true) }
    await stage(bytes: segment.length.bytes) { await write(segment, from: nil) }
    turns?.pass(segment, goesOn: !hasWriteStopped)
  }

  /// The segment isn't written, because it couldn't be read or because its turn never comes.
  private func abandon(_ segment: Range<Sector>, wasRead: Bool) {
    for index in plan.activeDestinations {
      destinations[index].missing.insert(segment)
      if wasRead { destinations[index].wasAbandoned = true }
    }
    turns?.pass(segment, goesOn: false)
  }

  // MARK: Reading

  /// Reads the segment; false when it must not be written.
  private func read(_ segment: Range<Sector>, into buffer: IOBuffer) async -> Bool {
    guard let source = plan.source else { preconditionFailure("a zeroing job reads nothing") }
    do throws(IOFailure) {
      try await source.device.read(source.sectors(of: segment), into: buffer)
      progress?.addRead(segment.length)
      return true
    } catch {
      guard plan.options.contains(.ignoreErrors) else {
        noteReadFailure(error, in: segment)
        isStopped = true
        return false
      }
      return await salvage(segment, into: buffer, from: source)
    }
  }

  /// Finds out which sectors can't be read, down to the device's physical block, and leaves zeros
  /// in their place.
  ///
  /// - Returns: false when the job was cancelled before all of it had been tried: a dying disk can
  ///   take minutes over one segment.
  private func salvage(
    _ segment: Range<Sector>, into buffer: IOBuffer, from source: IORegion
  ) async -> Bool {
    let block = max(1, UInt64(source.device.limits.physicalBlock) / Sector.byteCount)
    var pieces = [segment]
    while let piece = pieces.popLast() {
      if wasCancelled {
        hasGivenUp = true
        return false
      }
      let part = buffer.slice(piece.lowerBound - segment.lowerBound, piece.length)
      do throws(IOFailure) {
        try await source.device.read(source.sectors(of: piece), into: part)
      } catch {
        // What lies before the failure has been read.
        let bad = error.place(in: piece, start: source.sector).lowerBound
        let place = source.sector + bad
        let blockEnd = bad + Sector(block - place.rawValue % block)
        if blockEnd >= piece.upperBound {
          part.slice(bad - piece.lowerBound, piece.upperBound - bad).clear()
          noteReadFailure(error, in: bad..<piece.upperBound)
        } else {
          // Its block alone, if it is known; otherwise halves, cut between blocks.
          let center = (place.rawValue + (piece.upperBound - bad).rawValue / 2) / block * block
          let half = max(source.sector + blockEnd, Sector(center)) - source.sector
          let middle = bad > piece.lowerBound ? blockEnd : half
          pieces.append(middle..<piece.upperBound)
          pieces.append(bad..<middle)
        }
      }
    }
    progress?.addRead(segment.length)
    return true
  }

  private func noteReadFailure(_ failure: IOFailure, in segment: Range<Sector>) {
    let start = plan.source?.sector ?? .zero
    readFailures.add(failure, at: failure.place(in: segment, start: start))
  }

  // MARK: Writing

  /// Writes the segment – or zeros – to all destinations at once; the slowest one decides.
  private func write(_ segment: Range<Sector>, from buffer: IOBuffer?) async {
    let targets = active
    for index in plan.activeDestinations where !targets.contains(index) {
      destinations[index].missing.insert(segment)
    }
    guard targets.count > 1 else {
      if let only = targets.first { await write(segment, from: buffer, to: only) }
      return
    }
    await withDiscardingTaskGroup { group in
      for index in targets {
        group.addTask(executorPreference: resources.loop) {
          await self.write(segment, from: buffer, to: index)
        }
      }
    }
  }

  private func write(_ segment: Range<Sector>, from buffer: IOBuffer?, to index: Int) async {
    let destination = plan.destinations[index]
    let sectors = destination.sectors(of: segment)
    do throws(IOFailure) {
      if let buffer {
        try await destination.device.write(sectors, from: buffer)
      } else if zeroesByCommand {
        try await destination.device.writeZeroes(sectors, mayUnmap: false)
      } else {
        try await destination.device.write(
          sectors, from: IOBuffer.zeroes.slice(.zero, segment.length))
      }
      progress?.addWritten(segment.length, destination: index)
    } catch {
      noteWriteFailure(error, in: segment, of: index)
    }
  }

  private func noteWriteFailure(
    _ failure: IOFailure, in segment: Range<Sector>, of index: Int
  ) {
    let place = failure.place(in: segment, start: plan.destinations[index].sector)
    destinations[index].failures.add(failure, at: place)
    destinations[index].missing.insert(place.lowerBound..<segment.upperBound)
    progress?.addWritten(place.lowerBound - segment.lowerBound, destination: index)
    progress?.markFailed(destination: index)
    if plan.options.contains(.dropFailedDestinations) {
      active.removeAll { $0 == index }
      hasWriteStopped = active.isEmpty
    } else if !plan.options.contains(.ignoreErrors) {
      hasWriteStopped = true
    }
    if hasWriteStopped { isStopped = true }
  }

  // MARK: At once

  /// Reads and writes a run of segments in one go, within the page cache.
  private func copyAtOnce(
    _ run: Range<Sector>, through buffer: IOBuffer, with copy: PageCachedCopy
  ) async {
    guard let source = plan.source else { preconditionFailure("a zeroing job reads nothing") }
    var rest = run
    while !rest.isEmpty {
      // After an error what comes behind it hasn't been taken yet.
      guard !isStopped else { return abandon(rest, wasRead: false) }
      let targets = active.map {
        PageCachedCopy.Target(
          index: $0, start: plan.destinations[$0].sectors(of: rest).lowerBound)
      }
      let outcome = await copy.run(
        source.sectors(of: rest), to: targets, through: buffer, on: resources.loop)
      let good = rest.lowerBound..<rest.lowerBound + outcome.copied
      noteCopied(good, to: targets, failed: [])
      rest = good.upperBound..<rest.upperBound
      if rest.isEmpty { return }
      let length = min(buffer.sectorCount, rest.length)
      let failed = rest.lowerBound..<rest.lowerBound + length
      await settle(failed, outcome, targets, through: buffer.slice(.zero, length))
      rest = failed.upperBound..<rest.upperBound
    }
  }

  private func noteCopied(
    _ sectors: Range<Sector>, to targets: [PageCachedCopy.Target], failed: [Int]
  ) {
    guard !sectors.isEmpty else { return }
    progress?.addRead(sectors.length)
    for index in plan.activeDestinations where !failed.contains(index) {
      if targets.contains(where: { $0.index == index }) {
        progress?.addWritten(sectors.length, destination: index)
      } else {
        destinations[index].missing.insert(sectors)
      }
    }
  }

  /// Takes note of the piece with which a run ended.
  private func settle(
    _ piece: Range<Sector>, _ outcome: PageCachedCopy.Outcome,
    _ targets: [PageCachedCopy.Target], through buffer: IOBuffer
  ) async {
    if let failure = outcome.readFailure {
      guard plan.options.contains(.ignoreErrors), let source = plan.source else {
        noteReadFailure(failure, in: piece)
        isStopped = true
        return abandon(piece, wasRead: false)
      }
      guard await salvage(piece, into: buffer, from: source) else {
        return abandon(piece, wasRead: false)
      }
      return await write(piece, from: buffer)
    }
    noteCopied(piece, to: targets, failed: outcome.writeFailures.map(\.index))
    for (index, failure) in outcome.writeFailures {
      noteWriteFailure(failure, in: piece, of: index)
    }
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
