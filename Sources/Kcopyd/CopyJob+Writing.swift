import BlockIO

/// Writing a segment to all destinations, and what is noted of it.
extension CopyJob {
  /// What a segment holds.
  enum SegmentData {
    /// Zeros that needn't be read: of a zeroing job, or a hole.
    case zeroes
    /// Data in memory. With `scratch`, which is as long, destinations are read first.
    case bytes(IOBuffer, scratch: IOBuffer?)
  }

  /// Writes the segment to all destinations at once; the slowest one decides.
  func write(_ segment: Range<Sector>, _ data: SegmentData) async {
    let targets = active
    for index in plan.activeDestinations where !targets.contains(index) {
      destinations[index].missing.insert(segment)
    }
    // With one piece of memory to read them into destinations have their turns.
    if case .bytes(_, .some) = data {
      for index in targets { await write(segment, data, to: index) }
      return
    }
    guard targets.count > 1 else {
      if let only = targets.first { await write(segment, data, to: only) }
      return
    }
    await withDiscardingTaskGroup { group in
      for index in targets {
        group.addTask(executorPreference: resources.loop) {
          await self.write(segment, data, to: index)
        }
      }
    }
  }

  private func write(_ segment: Range<Sector>, _ data: SegmentData, to index: Int) async {
    let destination = plan.destinations[index]
    let pieces = await pieces(of: segment, data, at: destination, index)
    for (number, piece) in pieces.enumerated() {
      let place = piece.sectors.shifted(by: segment.lowerBound)
      do throws(IOFailure) {
        try await perform(piece, of: data, destination.sectors(of: place), destination.device)
      } catch {
        let failed = error.place(in: place, start: destination.sector)
        noteWritten(pieces[..<number], and: failed.lowerBound - place.lowerBound, of: piece, index)
        noteWriteFailure(error, at: failed, in: segment, of: index)
        return
      }
    }
    noteWritten(pieces[...], and: .zero, of: nil, index)
  }

  /// What the segment becomes at that destination.
  private func pieces(
    of segment: Range<Sector>, _ data: SegmentData, at destination: IORegion, _ index: Int
  ) async -> [WritePiece] {
    let all = WritePiece(sectors: .zero..<segment.length, action: .write)
    guard let content = plan.content else { return [all] }
    let zeroes = ZeroTreatment(content, destination: destination, index: index)
    let sectors = destination.sectors(of: segment)
    switch data {
    case .zeroes: return zeroes.pieces(ofHole: segment.length)
    case .bytes(let buffer, scratch: nil):
      return zeroes.pieces(of: buffer, at: sectors.lowerBound)
    case .bytes(let buffer, .some(let present)):
      do throws(IOFailure) {
        try await destination.device.read(sectors, into: present)
      } catch {
        return [all]
      }
      return zeroes.pieces(of: buffer, over: present, at: sectors.lowerBound)
    }
  }

  private func perform(
    _ piece: WritePiece, of data: SegmentData, _ sectors: Range<Sector>, _ device: any BlockDevice
  ) async throws(IOFailure) {
    switch (piece.action, data) {
    case (_, .bytes(let buffer, _)):
      try await piece.perform(
        with: buffer, from: sectors.lowerBound - piece.sectors.lowerBound, of: device,
        mayUnmap: plan.content?.mayUnmap ?? false)
    case (.write, .zeroes) where !zeroesByCommand:
      try await device.write(sectors, from: IOBuffer.zeroes.slice(.zero, piece.sectors.length))
    case (.write, .zeroes): try await device.writeZeroes(sectors, mayUnmap: false)
    case (.zero, _):
      try await device.writeZeroes(sectors, mayUnmap: plan.content?.mayUnmap ?? false)
    case (.leaveZero, _), (.leaveEqual, _): return
    }
  }

  // MARK: Account

  /// Takes note of pieces that are done, and of the first `part` sectors of `begun`.
  private func noteWritten(
    _ done: ArraySlice<WritePiece>, and part: Sector, of begun: WritePiece?, _ index: Int
  ) {
    guard let progress else { return }
    var (written, zeroed, equal) = (Sector.zero, Sector.zero, Sector.zero)
    func add(_ count: Sector, _ action: WritePiece.Action) {
      written += count
      switch action {
      case .write: break
      case .zero, .leaveZero: zeroed += count
      case .leaveEqual: equal += count
      }
    }
    for piece in done { add(piece.sectors.length, piece.action) }
    if let begun { add(part, begun.action) }
    progress.addWritten(written, zeroed: zeroed, equal: equal, destination: index)
  }

  /// Takes note of a write that failed at `place`: nothing of the segment behind it was written.
  func noteWriteFailure(
    _ failure: IOFailure, at place: Range<Sector>, in segment: Range<Sector>, of index: Int
  ) {
    destinations[index].failures.add(failure, at: place)
    destinations[index].missing.insert(place.lowerBound..<segment.upperBound)
    progress?.markFailed(destination: index)
    if plan.options.contains(.dropFailedDestinations) {
      active.removeAll { $0 == index }
      hasWriteStopped = active.isEmpty
    } else if !plan.options.contains(.ignoreErrors) {
      hasWriteStopped = true
    }
    if hasWriteStopped { isStopped = true }
  }
}
