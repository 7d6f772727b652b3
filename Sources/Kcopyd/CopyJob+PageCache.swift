import BlockIO

/// Reading and writing runs of segments in one go, within the page cache.
extension CopyJob {
  /// The copy in one go, where the plan allows it.
  func makePageCachedCopy() -> PageCachedCopy? {
    // What must be ordered can't be left to threads.
    guard let source = plan.source, turns == nil, !plan.sourceOverlaps else { return nil }
    let devices = plan.destinations.map(\.device)
    guard let content = plan.content else {
      return PageCachedCopy(source: source.device, destinations: devices)
    }
    // There zeros can be left out, but neither made nor compared.
    guard !content.differencesOnly else { return nil }
    guard content.shortestZeroRun != nil else {
      return PageCachedCopy(source: source.device, destinations: devices)
    }
    guard plan.activeDestinations.allSatisfy(content.blankDestinations.contains) else { return nil }
    let block = devices.map(\.limits.zeroBlock).max()
    return PageCachedCopy(source: source.device, destinations: devices, leavingZeroes: block)
  }

  /// Reads and writes a run of segments.
  ///
  /// - Returns: whether all of it was read; if it is one segment, `buffer` holds it then.
  func copyAtOnce(
    _ run: Range<Sector>, through buffer: IOBuffer, with copy: PageCachedCopy
  ) async -> Bool {
    guard let source = plan.source else { preconditionFailure("a zeroing job reads nothing") }
    var rest = run
    while !rest.isEmpty {
      // After an error what comes behind it hasn't been taken yet.
      guard !isStopped else {
        abandon(rest, wasRead: false)
        return false
      }
      let targets = active.map {
        PageCachedCopy.Target(
          index: $0, start: plan.destinations[$0].sectors(of: rest).lowerBound)
      }
      let outcome = await copy.run(
        source.sectors(of: rest), to: targets, through: buffer, on: resources.loop)
      let good = rest.lowerBound..<rest.lowerBound + outcome.copied
      noteCopied(good, zeroes: outcome.zeroes, to: targets, failed: [])
      rest = good.upperBound..<rest.upperBound
      if rest.isEmpty { return true }
      let length = min(buffer.sectorCount, rest.length)
      let failed = rest.lowerBound..<rest.lowerBound + length
      guard await settle(failed, outcome, targets, through: buffer.slice(.zero, length), copy)
      else { return false }
      rest = failed.upperBound..<rest.upperBound
    }
    return true
  }

  private func noteCopied(
    _ sectors: Range<Sector>, zeroes: Sector, to targets: [PageCachedCopy.Target], failed: [Int]
  ) {
    guard !sectors.isEmpty else { return }
    progress?.addRead(sectors.length)
    for index in plan.activeDestinations where !failed.contains(index) {
      if targets.contains(where: { $0.index == index }) {
        progress?.addWritten(sectors.length, zeroed: zeroes, destination: index)
      } else {
        destinations[index].missing.insert(sectors)
      }
    }
  }

  /// Takes note of the piece with which a run ended; false when it couldn't be read.
  private func settle(
    _ piece: Range<Sector>, _ outcome: PageCachedCopy.Outcome,
    _ targets: [PageCachedCopy.Target], through buffer: IOBuffer, _ copy: PageCachedCopy
  ) async -> Bool {
    if let failure = outcome.readFailure {
      guard plan.options.contains(.ignoreErrors), let source = plan.source else {
        noteReadFailure(failure, in: piece)
        isStopped = true
        abandon(piece, wasRead: false)
        return false
      }
      guard await salvage(piece, into: buffer, from: source) else {
        abandon(piece, wasRead: false)
        return false
      }
      await write(piece, .bytes(buffer, scratch: nil))
      return true
    }
    let zeroes = copy.runs(of: buffer).filter(\.isZero).map {
      $0.sectors.shifted(by: piece.lowerBound)
    }
    noteCopied(
      piece, zeroes: RangeSet(zeroes).sectorCount, to: targets,
      failed: outcome.writeFailures.map(\.index))
    for (index, failure) in outcome.writeFailures {
      let place = failure.place(in: piece, start: plan.destinations[index].sector)
      let written = piece.lowerBound..<place.lowerBound
      progress?.addWritten(
        written.length, zeroed: RangeSet(zeroes).intersection(RangeSet(written)).sectorCount,
        destination: index)
      noteWriteFailure(failure, at: place, in: piece, of: index)
    }
    return true
  }
}
