import BlockIO
@testable import BlockIOTesting
import Kcopyd

/// How a job went, as opposed to what it left behind.
extension JobEvidence {
  // MARK: Ending

  /// The reason of the end is the true one, and a job that has no reason to end early doesn't.
  func checkEnding(_ requests: JobRequests, _ segments: [Range<Sector>]) throws {
    let writeFailed = active.contains { !result.destinations[$0].failures.isEmpty }
    switch result.ending {
    case .cancelled:
      try ensure(cancellation != nil, "cancelled by nobody")
    case .stoppedByError:
      let readStops = result.readError && !ignoresErrors
      let writeStops =
        writeFailed
        && (dropsDestinations
          ? active.allSatisfy { !result.destinations[$0].failures.isEmpty } : !ignoresErrors)
      try ensure(readStops || writeStops, "stopped by no error")
    case .finished:
      try ensure(ignoresErrors || !result.readError, "finished in spite of a read error")
      let intact = active.filter { result.destinations[$0].failures.isEmpty }
      for index in intact {
        try ensure(
          result.destinations[index].missing.isEmpty, "destination \(index) isn't complete")
      }
      if dropsDestinations {
        try ensure(!intact.isEmpty || active.isEmpty, "finished without a destination")
      } else if ignoresErrors {
        for (number, segment) in segments.enumerated() {
          for index in active {
            try ensure(
              wasTried(number, segment, of: index, requests),
              "destination \(index): \(segment.label) not tried")
          }
        }
      } else {
        try ensure(result.isComplete, "finished, but not complete")
      }
    }
  }

  // MARK: Order

  /// No more at once than there are sub-jobs, and in order where it matters.
  func checkOrder(_ requests: JobRequests, _ segments: [Range<Sector>]) throws {
    var changes: [(time: Int64, change: Int)] = []
    for number in segments.indices {
      let writes = active.compactMap { requests.writes[$0][number] }
      if let read = requests.reads[number], let end = read.end {
        changes.append((read.start.nanoseconds, 1))
        changes.append((end.nanoseconds, -1))
        // The write comes after the whole of the read.
        let first = writes.map(\.start).min() ?? end
        try ensure(first >= end, "\(segments[number].label) is written while it is read")
      }
      if let start = writes.map(\.start).min(), let end = writes.compactMap(\.end).max() {
        changes.append((start.nanoseconds, 1))
        changes.append((end.nanoseconds, -1))
      }
    }
    changes.sort { ($0.time, $0.change) < ($1.time, $1.change) }
    var inFlight = 0
    let most = overlaps ? 1 : KcopydClient.subJobsInFlight
    for (_, change) in changes {
      inFlight += change
      try ensure(inFlight <= most, "\(inFlight) sub-jobs at once")
    }
    if isSequential { try checkSequence(requests, segments) }
  }

  private func checkSequence(_ requests: JobRequests, _ segments: [Range<Sector>]) throws {
    for index in active {
      var end: LoopInstant?
      var hasGap = false
      for number in segments.indices {
        guard let request = requests.writes[index][number] else {
          hasGap = true
          continue
        }
        try ensure(!hasGap, "destination \(index) is written behind a gap")
        try ensure(end.map { request.start >= $0 } ?? true, "two writes in sequence at once")
        end = request.end
      }
      let written = result.written(index).ranges
      try ensure(
        written.count <= 1 && written.first?.lowerBound ?? .zero == .zero,
        "destination \(index) has \(written), no prefix")
    }
  }

  // MARK: Stopping

  /// After an error or a cancellation nothing new is started, and what is under way is finished.
  func checkStopping(_ requests: JobRequests, _ segments: [Range<Sector>]) throws {
    if dropsDestinations { try checkDropped(requests) }
    guard !isThrottled else { return }
    let stop = [cancellation, failureThatStops(requests)].compactMap { $0 }.min()
    if let stop, !isSequential || job.source != nil {
      for number in segments.indices {
        let begin =
          job.source == nil
          ? active.compactMap { requests.writes[$0][number]?.start }.min()
          : requests.reads[number]?.start
        if let begin {
          try ensure(begin <= stop, "\(segments[number].label) was begun after the end")
        }
      }
    }
    guard !dropsDestinations else { return }
    for (number, segment) in segments.enumerated() {
      guard let read = requests.reads[number], read.failure == nil else { continue }
      let isWritten = active.allSatisfy { wasTried(number, segment, of: $0, requests) }
      // Ordered writes go on up to what can't be written, or read.
      if isSequential, isBehindFailure(segment, requests, segments) {
        try ensure(
          isWritten || result.writeErrors == .max, "\(segment.label) was given up without a word")
      } else {
        try ensure(isWritten, "\(segment.label) was read and not written")
      }
    }
  }

  private func isBehindFailure(
    _ segment: Range<Sector>, _ requests: JobRequests, _ segments: [Range<Sector>]
  ) -> Bool {
    if active.contains(where: { !result.destinations[$0].failures.isEmpty }) { return true }
    return segments.indices.contains { number in
      segments[number].lowerBound < segment.lowerBound
        && (requests.reads[number]?.failure != nil || segments[number].upperBound > onDiskOfSource)
    }
  }

  private var onDiskOfSource: Sector { job.source.map { onDisk($0).upperBound } ?? .zero }

  /// A destination that has failed is left alone.
  private func checkDropped(_ requests: JobRequests) throws {
    for index in active {
      let writes = requests.writes[index].compactMap { $0 }
      guard let failed = writes.filter({ $0.failure != nil }).compactMap(\.end).min() else {
        continue
      }
      try ensure(
        writes.allSatisfy { $0.start <= failed }, "destination \(index) has failed and is written")
    }
  }

  /// When the first error came that ends the job; of those that the disks know.
  private func failureThatStops(_ requests: JobRequests) -> LoopInstant? {
    guard !ignoresErrors, !dropsDestinations else { return nil }
    let all = requests.reads + active.flatMap { requests.writes[$0] }
    return all.compactMap { $0?.failure == nil ? nil : $0?.end }.min()
  }
}
