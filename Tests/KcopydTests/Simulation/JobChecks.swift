import BlockIO
@testable import BlockIOTesting
import Kcopyd

extension JobEvidence {
  /// Throws what isn't as it should be.
  func check() throws {
    try checkShape()
    // The contents before the requests: what matters first.
    let segments = segments
    let expected = expectedContents()
    try checkContents(expected, segments)
    let requests = try JobRequests(self, segments)
    try checkWrites(requests, segments)
    try checkReads(requests, segments)
    try checkEnding(requests, segments)
    try checkOrder(requests, segments)
    try checkStopping(requests, segments)
    try checkProgress()
  }

  private func checkShape() throws {
    try ensure(result.count == job.count, "a result of another length")
    try ensure(
      result.destinations.count == job.destinations.count, "a result of other destinations")
    for index in result.destinations.indices where !active.contains(index) {
      let destination = result.destinations[index]
      try ensure(
        destination.missing.isEmpty && destination.failures.isEmpty && !destination.wasAbandoned,
        "destination \(index) is ignored and has errors")
    }
  }

  // MARK: Contents

  /// What every destination has to hold: the source, zeros where it can't be read.
  private func expectedContents() -> [UInt8] {
    var expected = source
    expected.append(contentsOf: zeroes(Int(job.count.bytes) - source.count))
    for range in result.readFailures.sectors.ranges {
      let bad = range.clamped(to: .zero..<job.count)
      expected.overwrite(at: Int(bad.lowerBound.bytes), with: zeroes(Int(bad.length.bytes)))
    }
    return expected
  }

  private func zeroes(_ count: Int) -> [UInt8] { Array(repeating: 0, count: count) }

  private func checkContents(_ expected: [UInt8], _ segments: [Range<Sector>]) throws {
    var holding = before
    for index in active {
      let place = job.destinations[index]
      let area = areas[place.disk]
      let onDisk = onDisk(place)
      for range in result.written(index).ranges {
        try ensure(
          range.upperBound <= onDisk.upperBound,
          "destination \(index) is said to have \(range.label), beyond the disk's end")
        holding[place.disk].overwrite(
          at: Int((place.sector + range.lowerBound - area.lowerBound).bytes), with: expected,
          from: Int(range.lowerBound.bytes), count: Int(range.length.bytes))
      }
    }
    for disk in areas.indices {
      let area = areas[disk]
      guard
        let mismatch = ContentMismatch(
          after[disk], expected: holding[disk], from: area.lowerBound)
      else { continue }
      for range in mismatch.sectors.ranges {
        var sector = range.lowerBound
        while sector < range.upperBound {
          guard mayHoldNew(sector, disk, expected) else {
            throw CheckFailure("contents of disk \(disk): \(mismatch)")
          }
          sector += 1
        }
      }
    }
  }

  /// Whether the sector is one whose write failed, and holds what was written.
  private func mayHoldNew(_ sector: Sector, _ disk: Int, _ expected: [UInt8]) -> Bool {
    for index in active {
      let place = job.destinations[index]
      guard place.disk == disk, place.sectors.contains(sector) else { continue }
      let offset = sector - place.sector
      guard result.destinations[index].missing.contains(offset), wasTried(sector, disk) else {
        return false
      }
      let here = Int((sector - areas[disk].lowerBound).bytes)
      return after[disk].copy(at: here, count: 512)
        == expected.copy(at: Int(offset.bytes), count: 512)
    }
    return false
  }

  private func wasTried(_ sector: Sector, _ disk: Int) -> Bool {
    logs[disk].contains { $0.operation != .read && $0.sectors?.contains(sector) ?? false }
  }

  // MARK: Writes

  /// The part of a segment that a write which failed may have left undone.
  private func place(
    of failure: IOFailure, in segment: Range<Sector>, _ index: Int
  ) -> Range<Sector> {
    let start = job.destinations[index].sector
    let failed = failure.sectors ?? segment.shifted(by: start)
    return failed.lowerBound - start..<failed.upperBound - start
  }

  /// Missing sectors and failures are those that the disks know, no more and no less.
  private func checkWrites(_ requests: JobRequests, _ segments: [Range<Sector>]) throws {
    for index in active {
      let onDisk = onDisk(job.destinations[index])
      let said = result.destinations[index]
      var missing: [Range<Sector>] = []
      var failed: [Range<Sector>] = []
      for (number, segment) in segments.enumerated() {
        if segment.upperBound > onDisk.upperBound {
          // Refused before it gets to the disk; if it was tried, that failed.
          missing.append(segment)
          if said.failures.sectors.contains(segment.lowerBound) { failed.append(segment) }
        } else if let request = requests.writes[index][number] {
          guard let failure = request.failure else { continue }
          let place = place(of: failure, in: segment, index)
          missing.append(place)
          failed.append(place)
        } else {
          missing.append(segment)
        }
      }
      try ensure(
        said.missing == RangeSet(missing),
        "destination \(index) misses \(RangeSet(missing)), not \(said.missing)")
      try ensure(
        said.failures.sectors == RangeSet(failed),
        "destination \(index) failed at \(RangeSet(failed)), not \(said.failures.sectors)")
    }
    try checkBits()
  }

  private func checkBits() throws {
    let wasAbandoned = result.destinations.contains(where: \.wasAbandoned)
    try ensure(!wasAbandoned || isSequential, "writes given up that need no order")
    var bits: UInt64 = 0
    for index in active where !result.destinations[index].failures.isEmpty {
      bits += UInt64(1) << UInt64(index)
    }
    try ensure(
      result.writeErrors == (wasAbandoned ? .max : bits), "other bits: \(result.writeErrors)")
  }

  // MARK: Reads

  /// What can't be read is reported, to the block, and nothing else.
  private func checkReads(_ requests: JobRequests, _ segments: [Range<Sector>]) throws {
    let said = result.readFailures.sectors
    guard let source = job.source else {
      return try ensure(said.isEmpty, "a zeroing job reads nothing")
    }
    let faults = plan.disks[source.disk].faults
    let onDisk = onDisk(source)
    for (number, segment) in segments.enumerated() {
      let here = segment.shifted(by: source.sector)
      var bad = faults.reads.intersection(RangeSet(here))
      bad.insert(here.clamped(to: source.sector + onDisk.upperBound..<Sector(.max)))
      let passing = faults.passingReads.intersection(RangeSet(here)).union(bad)
      let wasTaken = active.contains { wasTried(number, segment, of: $0, requests) }
      let saidHere = shifted(said.intersection(RangeSet(segment)), by: source.sector)
      if ignoresErrors {
        if wasTaken || (result.ending == .finished && !active.isEmpty) {
          let lost = blocks(bad, within: here)
          try ensure(
            lost.subtracting(saidHere).isEmpty, "\(lost) can't be read, reported is \(saidHere)")
        }
        // A request that crosses the end of the disk is refused without a place: the last block
        // of the disk is lost with it.
        let end = source.sector + onDisk.upperBound
        let beyond = blocks(RangeSet(end..<Sector(.max)), within: here, isVague: true)
        let mayBeLost = blocks(passing, within: here).union(beyond)
        try ensure(
          saidHere.subtracting(mayBeLost).isEmpty, "\(saidHere) is reported, only \(mayBeLost) bad")
      } else {
        try ensure(
          !wasTaken || (bad.isEmpty && saidHere.isEmpty), "written, but can't be read: \(here)")
        guard let first = saidHere.ranges.first else { continue }
        try ensure(
          saidHere == RangeSet(first.lowerBound..<here.upperBound)
            && (passing.contains(first.lowerBound) || !onDisk.contains(segment.upperBound - 1)),
          "\(saidHere) is reported, bad is \(passing)")
      }
    }
  }

  /// Whether the segment got as far as being written to the destination.
  func wasTried(
    _ number: Int, _ segment: Range<Sector>, of index: Int, _ requests: JobRequests
  ) -> Bool {
    requests.writes[index][number] != nil
      || result.destinations[index].failures.sectors.contains(segment.lowerBound)
  }

  private func shifted(_ set: RangeSet<Sector>, by distance: Sector) -> RangeSet<Sector> {
    RangeSet(set.ranges.map { $0.shifted(by: distance) })
  }

  /// What is lost with these sectors: the rest of their physical blocks, because smaller pieces
  /// aren't tried.
  private func blocks(
    _ set: RangeSet<Sector>, within segment: Range<Sector>, isVague: Bool = false
  ) -> RangeSet<Sector> {
    guard let source = job.source, !set.isEmpty else { return set }
    let block = UInt64(plan.disks[source.disk].limits.physicalBlock) / 512
    return RangeSet(
      set.ranges.map { range in
        let range = range.clamped(to: 0..<segment.upperBound)
        let start = isVague ? range.lowerBound.rawValue / block * block : range.lowerBound.rawValue
        let end = (range.upperBound.rawValue + block - 1) / block * block
        return (Sector(start)..<Sector(end)).clamped(to: segment)
      })
  }

  // MARK: Progress

  private func checkProgress() throws {
    for index in active {
      let said = progress.destinations[index]
      try ensure(
        said.written == result.written(index).sectorCount.bytes,
        "destination \(index): a progress of \(said.written) bytes")
      try ensure(
        said.hasFailed == !result.destinations[index].failures.isEmpty,
        "destination \(index): failed in the progress or in the result")
      try ensure(said.durable == 0, "the engine doesn't know what is durable")
      if job.source != nil { try ensure(said.written <= progress.read, "written before read") }
    }
    if job.source == nil || active.isEmpty {
      try ensure(progress.read == 0, "a progress of reads that weren't made")
    } else if result.ending == .finished {
      try ensure(progress.read == job.count.bytes, "a progress of \(progress.read) bytes read")
    }
  }
}
