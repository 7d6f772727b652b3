import BlockIO

/// A copy of one segment to one destination, done in the task that asks for it: a job of its own,
/// with its changes of executor, would take longer than starting the two transfers.
///
/// Its result is what ``CopyJob`` would have come to.
struct SmallCopy {
  private let source: IORegion
  private let destination: IORegion

  /// nil when the plan is for more than that, or for less than a plain copy.
  init?(_ plan: CopyPlan, subJob: Sector) {
    guard let source = plan.source, plan.destinations.count == 1, plan.options.isEmpty,
      plan.content == nil, plan.count > .zero, plan.count <= subJob, !plan.sourceOverlaps
    else { return nil }
    let destination = plan.destinations[0]
    // Between page-cached files a thread does both in one go.
    guard destination.count == plan.count,
      source.device.pageCachedFile == nil || destination.device.pageCachedFile == nil
    else { return nil }
    self.source = source
    self.destination = destination
  }

  /// Copies through `buffer`.
  func run(through buffer: IOBuffer, progress: CopyProgress?) async -> CopyResult {
    let buffer = buffer.slice(.zero, source.count)
    do throws(IOFailure) {
      try await source.device.read(source.sectors, into: buffer)
    } catch {
      return failed(toRead: error)
    }
    progress?.addRead(source.count)
    do throws(IOFailure) {
      try await destination.device.write(destination.sectors, from: buffer)
    } catch {
      return failed(toWrite: error, progress)
    }
    progress?.addWritten(source.count, destination: 0)
    return CopyResult(count: source.count, destinationCount: 1)
  }

  /// The whole region, counted from its start.
  private var segment: Range<Sector> { .zero..<source.count }

  private func failed(toRead failure: IOFailure) -> CopyResult {
    var failures = FailureLog()
    failures.add(failure, at: failure.place(in: segment, start: source.sector))
    var result = CopyResult.Destination()
    result.missing.insert(segment)
    return CopyResult(
      count: source.count, ending: .stoppedByError, readFailures: failures, destinations: [result])
  }

  private func failed(toWrite failure: IOFailure, _ progress: CopyProgress?) -> CopyResult {
    let place = failure.place(in: segment, start: destination.sector)
    var result = CopyResult.Destination()
    result.failures.add(failure, at: place)
    result.missing.insert(place.lowerBound..<segment.upperBound)
    progress?.addWritten(place.lowerBound, destination: 0)
    progress?.markFailed(destination: 0)
    return CopyResult(
      count: source.count, ending: .stoppedByError, readFailures: FailureLog(),
      destinations: [result])
  }
}
