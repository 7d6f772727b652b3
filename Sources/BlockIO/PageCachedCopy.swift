/// The shortest way for files in the page cache: a thread reads a piece and writes it to all
/// destinations in one go, while the piece is still in its processor's cache, and then the next.
public struct PageCachedCopy: Sendable {
  private let source: PageCachedFile
  private let destinations: [PageCachedFile]
  /// The unit in which zeros are looked for and left out; nil: everything is written.
  private let zeroBlock: Sector?

  /// A destination that is to be written: which one, and where.
  public struct Target: Sendable {
    /// Its index among the destinations.
    public let index: Int
    /// Where its part of the run begins.
    public let start: Sector

    /// The destination of that index, from sector `start` on.
    public init(index: Int, start: Sector) {
      self.index = index
      self.start = start
    }
  }

  /// How far a run came: to its end, or to the first piece with a failure.
  public struct Outcome: Sendable {
    /// How many sectors were copied to all targets before that piece.
    public var copied = Sector.zero
    /// How many of them are zeros that were left out.
    public var zeroes = Sector.zero
    /// Why the piece couldn't be read; it was written nowhere then.
    public var readFailure: IOFailure?
    /// The targets that couldn't be written, by index; the others have the piece.
    public var writeFailures: [(index: Int, failure: IOFailure)] = []

    var hasFailed: Bool { readFailure != nil || !writeFailures.isEmpty }
  }

  /// nil unless all ends are files in the page cache.
  ///
  /// - Parameter zeroBlock: for destinations that read as zeros: zeros aren't written, in this
  ///   unit.
  public init?(
    source: any BlockDevice, destinations: [any BlockDevice], leavingZeroes zeroBlock: Sector? = nil
  ) {
    let files = destinations.compactMap(\.pageCachedFile)
    guard let source = source.pageCachedFile, files.count == destinations.count else { return nil }
    self.source = source
    self.destinations = files
    self.zeroBlock = zeroBlock
  }

  /// How many runs keep the threads of `loop` busy.
  public static func parallelism(on loop: IOLoop) -> Int { loop.transferThreads }

  /// The longest run that is worth it: long enough that handing it to a thread costs nothing.
  public static let longestRun = Sector(holding: 16 << 20)

  /// Copies `sectors` of the source to the targets, in pieces as long as `buffer`, which lies
  /// between reading and writing.
  public func run(
    _ sectors: Range<Sector>, to targets: [Target], through buffer: IOBuffer, on loop: IOLoop
  ) async -> Outcome {
    // Neighbouring runs are under way together: each begins with another target, so that their
    // threads don't wait for one another at a file that takes one write at a time.
    let number = sectors.lowerBound.rawValue / max(1, sectors.length.rawValue)
    let turn = targets.isEmpty ? 0 : Int(number % UInt64(targets.count))
    let targets = Array(targets[turn...] + targets[..<turn])
    return await loop.transferring {
      var outcome = Outcome()
      while outcome.copied < sectors.length {
        let count = min(buffer.sectorCount, sectors.length - outcome.copied)
        copyPiece(of: sectors, to: targets, buffer.slice(.zero, count), &outcome)
        if outcome.hasFailed { break }
        outcome.copied += count
      }
      return outcome
    }
  }

  /// Copies the piece behind what `outcome` says is copied.
  private func copyPiece(
    of sectors: Range<Sector>, to targets: [Target], _ buffer: IOBuffer, _ outcome: inout Outcome
  ) {
    let offset = outcome.copied
    let piece = Sector.zero..<buffer.sectorCount
    do throws(IOFailure) {
      try source.read(piece.shifted(by: sectors.lowerBound + offset), into: buffer)
    } catch {
      outcome.readFailure = error
      return
    }
    let runs = runs(of: buffer)
    for target in targets {
      do throws(IOFailure) {
        for run in runs where !run.isZero {
          try destinations[target.index].write(
            run.sectors.shifted(by: target.start + offset),
            from: buffer.slice(run.sectors.lowerBound, run.sectors.length), options: [])
        }
      } catch {
        outcome.writeFailures.append((target.index, error))
      }
    }
    if outcome.writeFailures.isEmpty {
      for run in runs where run.isZero { outcome.zeroes += run.sectors.length }
    }
  }

  /// What of a piece is written, and what is left out.
  public func runs(of piece: IOBuffer) -> [IOBuffer.Run] {
    guard let zeroBlock else {
      return [IOBuffer.Run(sectors: .zero..<piece.sectorCount, isZero: false)]
    }
    return piece.runs(block: zeroBlock, at: .zero, shortestZero: zeroBlock)
  }
}

// MARK: On the spot

extension PageCachedCopy {
  /// The largest transfer, or copy, that is tried on the spot.
  public static let onTheSpotLimit = Sector(holding: 64 << 10)

  /// Copies a small region here and now, in the calling task, if all ends are different files in
  /// the page cache and the data needn't be waited for.
  ///
  /// - Parameter mayWait: whether writes may wait for dirty pages to be written; not on a loop.
  /// - Returns: whether everything was copied. If not, any part may have been: do it again in
  ///   another way, to the same effect, and learn there what failed.
  public static func onTheSpot(
    from source: IORegion, to destinations: [IORegion], mayWait: Bool
  ) -> Bool {
    guard source.count > .zero, source.count <= onTheSpotLimit,
      let file = source.device.pageCachedFile
    else { return false }
    // By index: a region that is taken out of the array costs a retain and a release.
    for index in destinations.indices {
      guard destinations[index].count == source.count,
        let other = destinations[index].device.pageCachedFile,
        mayWait || other.mayWriteOnTheSpot, other.identity != file.identity,
        !destinations[..<index].contains(where: { $0.device.identity == other.identity })
      else { return false }
    }
    // Memory of its own: nothing is shared with other copies, which may run on other cores.
    let byteCount = Int(source.count.bytes)
    return withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 16) {
      // The memory lives until this closure returns, and only calls within it use it.
      guard let base = $0.baseAddress else { return false }
      let buffer = IOBuffer(base: base, byteCount: byteCount)
      return copy(file, source.sectors, to: destinations, through: buffer, mayWait: mayWait)
    }
  }

  private static func copy(
    _ file: PageCachedFile, _ sectors: Range<Sector>, to destinations: [IORegion],
    through buffer: IOBuffer, mayWait: Bool
  ) -> Bool {
    do throws(IOFailure) {
      guard try file.readOnTheSpot(sectors, into: buffer) == .done else { return false }
      for index in destinations.indices {
        let sectors = destinations[index].sectors
        guard let file = destinations[index].device.pageCachedFile,
          try file.writeOnTheSpot(sectors, from: buffer, mayWait: mayWait) == .done
        else { return false }
      }
      return true
    } catch {
      return false
    }
  }
}
