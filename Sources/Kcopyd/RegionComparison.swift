public import BlockIO

/// What a comparison of two regions found.
public struct ComparisonResult: Sendable {
  /// The most differing ranges that are kept.
  public static let maximumRanges = 1024

  /// The length of the regions.
  public let count: Sector
  /// How many sectors were compared: all, unless some couldn't be read or the task was cancelled.
  public internal(set) var compared = Sector.zero
  /// How many of them differ.
  public internal(set) var differing = Sector.zero
  /// The first sector that differs, counted from the start of the regions.
  public internal(set) var first: Sector?
  /// Differing sectors; complete while there are at most ``maximumRanges`` ranges.
  public internal(set) var ranges = RangeSet<Sector>()
  /// What couldn't be read, and so not compared: the first region's failures, the second one's.
  public internal(set) var readFailures = (FailureLog(), FailureLog())

  /// Whether everything was compared and is the same.
  public var isEqual: Bool { compared == count && differing == .zero }
}

/// Reads two regions side by side and compares them, several pieces at once.
actor RegionComparison {
  private let regions: (IORegion, IORegion)
  private let resources: CopyJob.Resources
  private let progress: CopyProgress?
  private let piece: Sector
  private var cursor: SegmentCursor
  private var result: ComparisonResult

  nonisolated var unownedExecutor: UnownedSerialExecutor {
    resources.loop.asUnownedSerialExecutor()
  }

  init(
    _ first: IORegion, _ second: IORegion, resources: CopyJob.Resources, progress: CopyProgress?
  ) {
    regions = (first, second)
    self.resources = resources
    result = ComparisonResult(count: first.count)
    self.progress = progress
    // Two pieces must fit into the reserve at the same time.
    let half = Sector(UInt64(resources.pool.pageCount / 2 * PagePool.pageSize) / Sector.byteCount)
    piece = max(8, min(resources.subJob, half))
    cursor = SegmentCursor(count: first.count, segment: piece)
  }

  func run() async -> ComparisonResult {
    await withDiscardingTaskGroup { group in
      for _ in 0..<resources.parallelism {
        group.addTask(executorPreference: resources.loop) { await self.comparePieces() }
      }
    }
    return result
  }

  private func comparePieces() async {
    while !cursor.isAtEnd, !Task.isCancelled {
      // Both in one go: whoever held one and waited for the other could wait for ever.
      let each = PagePool.pages(holding: piece)
      let pages = await resources.pool.take(2 * each)
      guard let segment = cursor.next() else { return pages.giveBack() }
      let second = Sector(UInt64(each * PagePool.pageSize) / Sector.byteCount)
      let buffers = (
        pages.buffer.slice(.zero, segment.length), pages.buffer.slice(second, segment.length)
      )
      await resources.throttle?.start(bytes: 2 * segment.length.bytes, on: resources.loop) {
        Task.isCancelled
      }
      async let other = read(regions.1, segment, into: buffers.1)
      let failures = (await read(regions.0, segment, into: buffers.0), await other)
      resources.throttle?.end(on: resources.loop)
      note(failures, segment, buffers)
      pages.giveBack()
    }
  }

  private func read(
    _ region: IORegion, _ segment: Range<Sector>, into buffer: IOBuffer
  ) async -> IOFailure? {
    do throws(IOFailure) {
      try await region.device.read(region.sectors(of: segment), into: buffer)
      return nil
    } catch {
      return error
    }
  }

  private func note(
    _ failures: (IOFailure?, IOFailure?), _ segment: Range<Sector>,
    _ buffers: (IOBuffer, IOBuffer)
  ) {
    progress?.addRead(segment.length)
    if let failure = failures.0 { result.readFailures.0.add(failure, at: segment) }
    if let failure = failures.1 { result.readFailures.1.add(failure, at: segment) }
    guard failures.0 == nil, failures.1 == nil else { return }
    result.compared += segment.length
    for range in buffers.0.differences(from: buffers.1).ranges {
      let differing = range.shifted(by: segment.lowerBound)
      result.differing += differing.length
      result.first = min(result.first ?? differing.lowerBound, differing.lowerBound)
      if result.ranges.ranges.count < ComparisonResult.maximumRanges {
        result.ranges.insert(differing)
      }
    }
  }
}

extension KcopydClient {
  /// Compares two regions of the same length.
  ///
  /// - Parameter progress: told what has been read of each.
  /// - Throws: when the lengths differ, or a piece of each doesn't fit into the reserve.
  public nonisolated func compare(
    _ first: IORegion, _ second: IORegion, progress: CopyProgress? = nil
  ) async throws(KcopydError) -> ComparisonResult {
    guard first.count == second.count else { throw .unequalCounts(destination: 0) }
    guard first.isAddressable else { throw .unaddressable(destination: nil) }
    guard second.isAddressable else { throw .unaddressable(destination: 0) }
    guard pageCount >= 2 else { throw .reserveBelowSubJob(pages: pageCount, needed: 2) }
    return try await running { resources async in
      await RegionComparison(first, second, resources: resources, progress: progress).run()
    }
  }
}
