import BlockIO
import Kcopyd

// How the data get from the source to those that lack them.
extension ImagingJob {
  // MARK: By the engine

  /// Copies a window of a copy that isn't a rescue.
  func copy(_ window: Range<Sector>) async {
    let start = loop.now
    let (copied, failed) = await move(window)
    guard case .straight(var plan) = order else { return }
    plan.finish(copied: copied, failed: failed, after: start.duration(to: loop.now))
    order = .straight(plan)
    if !failed.isEmpty { end(.readError) }
  }

  /// Copies sectors in pieces, each to those that lack it; what all have then, and what can't be
  /// read.
  func move(
    _ window: Range<Sector>
  ) async -> (copied: RangeSet<Sector>, failed: RangeSet<Sector>) {
    var copied = RangeSet<Sector>()
    var failed = RangeSet<Sector>()
    var rest = window
    while !rest.isEmpty, failed.isEmpty, !wasCancelled, !ledger.alive.isEmpty {
      let (piece, takers) = ledger.uniform(rest)
      rest = piece.upperBound..<rest.upperBound
      if takers.isEmpty {
        copied.insert(piece)
        // Who observes it all sees this, too; what can't be read then is missing there only.
        if options.content?.observer != nil { _ = await copy(piece, to: []) }
      } else {
        let outcome = await copy(piece, to: takers)
        copied.formUnion(outcome.copied)
        failed.formUnion(outcome.failed)
      }
    }
    return (copied, failed)
  }

  private func copy(
    _ piece: Range<Sector>, to takers: [Int]
  ) async -> (copied: RangeSet<Sector>, failed: RangeSet<Sector>) {
    let part = piece.lowerBound - source.sector
    let from = IORegion(source.device, sector: piece.lowerBound, count: piece.length)
    let to =
      takers.isEmpty
      ? [IORegion(Sink(sectorCount: piece.length), count: piece.length)]
      : takers.map {
        IORegion(targets[$0].device, sector: targets[$0].sector + part, count: piece.length)
      }
    var content = options.content?.part(part..<part + piece.length)
    content?.observer = options.content?.observer.map { PartObserver(whole: $0, start: part) }
    if takers.isEmpty { content?.differencesOnly = false }
    content?.blankDestinations = Set(
      takers.indices.filter { options.content?.blankDestinations.contains(takers[$0]) == true })
    // A task of its own, so that it can be cancelled while all else goes on.
    let task = Task(executorPreference: loop) { [client, options, content] in
      do throws(KcopydError) {
        return Result<CopyResult, KcopydError>.success(
          try await client.copy(
            from: from, to: to, options: options.copyOptions, content: content))
      } catch {
        return .failure(error)
      }
    }
    let number = begin(task)
    let outcome = await task.value
    end(number)
    // The regions are checked parts of regions that were checked; the client outlives the job.
    guard case .success(let result) = outcome else {
      preconditionFailure("the engine refused a part of a copy: \(outcome)")
    }
    var everywhere = RangeSet(piece)
    for (place, index) in takers.enumerated() {
      let written = result.written(place).shifted(by: piece.lowerBound)
      ledger.note(written: written, by: index)
      if let failure = result.destinations[place].failures.entries.first?.failure {
        ledger.note(failure: failure, of: index)
      } else {
        everywhere.formIntersection(written)
      }
    }
    for entry in result.readFailures.entries { note(readFailure: entry.failure) }
    if !result.readError { noteGoodRead() }
    return (everywhere, result.readFailures.sectors.shifted(by: piece.lowerBound))
  }

  // MARK: By hand

  /// Reads a piece of a rescue and hands what could be read to those that lack it.
  func rescue(_ range: Range<Sector>) async {
    let pages = await pool.take(PagePool.pages(holding: range.length))
    let buffer = pages.buffer.slice(.zero, range.length)
    await client.throttle?.start(bytes: range.length.bytes, on: loop) { wasCancelled }
    let start = loop.now
    let good = await read(range, into: buffer)
    let wasSlow = isSlow(range.length, start.duration(to: loop.now))
    if good > .zero { await write(range.lowerBound..<range.lowerBound + good, from: buffer) }
    client.throttle?.end(on: loop)
    pages.giveBack()
    guard case .rescue(var plan) = order else { return }
    plan.finish(range, good: good, wasSlow: wasSlow)
    order = .rescue(plan)
  }

  /// Reads; how many sectors from the first one on could be read.
  private func read(_ range: Range<Sector>, into buffer: IOBuffer) async -> Sector {
    do throws(IOFailure) {
      try await source.device.read(range, into: buffer)
      noteGoodRead()
      return range.length
    } catch {
      note(readFailure: error)
      let first = error.sectors?.lowerBound ?? range.lowerBound
      guard range.contains(first) else { return .zero }
      if first > range.lowerBound { noteGoodRead() }
      return first - range.lowerBound
    }
  }

  private func isSlow(_ length: Sector, _ duration: Duration) -> Bool {
    guard let rate = options.minimumReadRate, rate > 0 else { return false }
    return Double(duration.nanoseconds) / 1e9 > Double(length.bytes) / Double(rate)
  }

  private func write(_ range: Range<Sector>, from buffer: IOBuffer) async {
    await withDiscardingTaskGroup { group in
      for index in ledger.alive {
        group.addTask(executorPreference: loop) {
          await self.write(range, from: buffer, to: index)
        }
      }
    }
  }

  private func write(_ range: Range<Sector>, from buffer: IOBuffer, to index: Int) async {
    let content = options.content ?? CopyContent()
    let zeroes = ZeroTreatment(content, destination: targets[index], index: index)
    for part in ledger.lacking(index, of: range).ranges {
      let data = buffer.slice(part.lowerBound - range.lowerBound, part.length)
      let there = target(index, part)
      for piece in zeroes.pieces(of: data, at: there.lowerBound) {
        do throws(IOFailure) {
          try await piece.perform(
            with: data, from: there.lowerBound, of: targets[index].device,
            mayUnmap: content.mayUnmap)
          ledger.note(written: RangeSet(piece.sectors.shifted(by: part.lowerBound)), by: index)
        } catch {
          return ledger.note(failure: error, of: index)
        }
      }
    }
  }

  private func target(_ index: Int, _ sectors: Range<Sector>) -> Range<Sector> {
    let start = targets[index].sector + (sectors.lowerBound - source.sector)
    return start..<start + sectors.length
  }

  // MARK: Filling

  /// Puts something in the place of what couldn't be read, on every destination that lacks it.
  func fillLost(_ fill: Fill) async {
    let statuses = Set(BlockStatus.allCases).subtracting([.finished])
    let lost = order.map.sectors(statuses, in: source.sectors)
    let pages = await pool.take(1)
    let most = Sector(holding: UInt64(PagePool.pageSize))
    for range in lost.ranges {
      var rest = range
      while !rest.isEmpty, !wasCancelled {
        let piece = rest.lowerBound..<min(rest.upperBound, rest.lowerBound + most)
        rest = piece.upperBound..<rest.upperBound
        let buffer = pages.buffer.slice(.zero, piece.length)
        fill.put(into: buffer, from: piece.lowerBound)
        for index in ledger.alive { await self.fill(piece, from: buffer, on: index) }
      }
    }
    pages.giveBack()
  }

  private func fill(_ piece: Range<Sector>, from buffer: IOBuffer, on index: Int) async {
    for part in ledger.lacking(index, of: piece).ranges {
      do throws(IOFailure) {
        try await targets[index].device.write(
          target(index, part),
          from: buffer.slice(part.lowerBound - piece.lowerBound, part.length))
        filled[index].insert(part)
      } catch {
        return ledger.note(failure: error, of: index)
      }
    }
  }
}

extension ImagingJob.Fill {
  /// The content of lost sectors from `first` on.
  func put(into buffer: IOBuffer, from first: Sector) {
    buffer.clear()
    guard self == .marker else { return }
    for offset in 0..<buffer.sectorCount.rawValue {
      let number = first.rawValue + offset
      let line = Array("kcopyd: sector \(number) couldn't be read\n".utf8)
      // The line again and again: whatever looks at a part of the sector sees it.
      let bytes = (0..<512).map { line[$0 % line.count] }
      buffer.slice(Sector(offset), 1).load(from: bytes)
    }
  }
}

extension RangeSet<Sector> {
  func shifted(by distance: Sector) -> RangeSet<Sector> {
    RangeSet(ranges.map { $0.shifted(by: distance) })
  }
}
