import BlockIO

/// Reading a segment, and what to do where that fails.
extension CopyJob {
  /// Reads the segment; false when it must not be written.
  func read(_ segment: Range<Sector>, into buffer: IOBuffer) async -> Bool {
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
  func salvage(
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

  func noteReadFailure(_ failure: IOFailure, in segment: Range<Sector>) {
    let start = plan.source?.sector ?? .zero
    readFailures.add(failure, at: failure.place(in: segment, start: start))
  }
}
