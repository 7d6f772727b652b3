public import BlockIO
public import Kcopyd

/// What reading a destination back found.
public struct VerifiedDestination: Sendable {
  /// Sectors, from the start of the region, that don't hold what the source does.
  public internal(set) var differing = RangeSet<Sector>()
  /// Sectors that couldn't be read back.
  public internal(set) var unreadable = RangeSet<Sector>()
  /// Why the first of them couldn't be.
  public internal(set) var failure: IOFailure?
  /// How many sectors differed and were written again.
  public internal(set) var rewritten = Sector.zero
  /// Sectors that weren't looked at: interrupted, or the source couldn't be read.
  public internal(set) var unchecked = RangeSet<Sector>()

  /// Whether everything was read and is right.
  public var isRight: Bool { differing.isEmpty && unreadable.isEmpty && unchecked.isEmpty }
}

/// Reads destinations back and compares them with the source, which is read once for all.
actor ReadBack {
  private let source: IORegion
  private let destinations: [IORegion]
  private let holes: RangeSet<Sector>
  private let pool: PagePool
  private let loop: IOLoop
  private let progress: CopyProgress?

  /// In ascending order, each at most a piece long.
  private var pieces: [Range<Sector>] = []
  private var next = 0
  private(set) var results: [VerifiedDestination]

  private static let piece = Sector(holding: 1 << 20)
  private static let piecesInFlight = 6
  /// Beyond that many ranges whole pieces are noted as differing.
  private static let maximumRanges = 1 << 16

  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  /// - Parameter ranges: what is compared.
  init(
    _ source: IORegion, _ destinations: [IORegion], of ranges: RangeSet<Sector>,
    holes: RangeSet<Sector>, progress: CopyProgress?, on loop: IOLoop
  ) throws(IOFailure) {
    self.source = source
    self.destinations = destinations
    self.holes = holes
    self.loop = loop
    self.progress = progress
    pool = try PagePool(
      pageCount: 2 * Self.piecesInFlight * PagePool.pages(holding: Self.piece))
    results = Array(repeating: VerifiedDestination(), count: destinations.count)
    for range in ranges.ranges {
      var start = range.lowerBound
      while start < range.upperBound {
        let end = min(start + Self.piece, range.upperBound)
        pieces.append(start..<end)
        start = end
      }
    }
  }

  func run() async -> [VerifiedDestination] {
    await withDiscardingTaskGroup { group in
      for _ in 0..<Self.piecesInFlight {
        group.addTask(executorPreference: loop) { await self.comparePieces() }
      }
    }
    for piece in pieces[next...] {
      for index in results.indices { results[index].unchecked.insert(piece) }
    }
    return results
  }

  private func comparePieces() async {
    while next < pieces.count, !Task.isCancelled {
      let each = PagePool.pages(holding: Self.piece)
      // Both in one go: whoever held one and waited for the other could wait for ever.
      let pages = await pool.take(2 * each)
      guard next < pieces.count, !Task.isCancelled else { return pages.giveBack() }
      let piece = pieces[next]
      next += 1
      await compare(
        piece, pages.buffer.slice(.zero, piece.length),
        pages.buffer.slice(Self.piece, piece.length))
      pages.giveBack()
    }
  }

  private func compare(
    _ piece: Range<Sector>, _ wanted: IOBuffer, _ present: IOBuffer
  ) async {
    let isHole = holes.intersection(RangeSet(piece)) == RangeSet(piece)
    do throws(IOFailure) {
      if !isHole {
        try await source.device.read(piece.shifted(by: source.sector), into: wanted)
      }
    } catch {
      for index in results.indices { results[index].unchecked.insert(piece) }
      return
    }
    for (index, destination) in destinations.enumerated() {
      do throws(IOFailure) {
        try await destination.device.read(piece.shifted(by: destination.sector), into: present)
      } catch {
        results[index].unreadable.insert(piece)
        results[index].failure = results[index].failure ?? error
        continue
      }
      progress?.markPresent(piece.length, destination: index)
      if isHole && present.isZero { continue }
      let other = isHole ? IOBuffer.zeroes.slice(.zero, piece.length) : wanted
      note(other.differences(from: present), in: piece, index)
    }
  }

  private func note(_ differing: RangeSet<Sector>, in piece: Range<Sector>, _ index: Int) {
    guard !differing.isEmpty else { return }
    guard results[index].differing.ranges.count < Self.maximumRanges else {
      results[index].differing.insert(piece)
      return
    }
    for range in differing.ranges {
      results[index].differing.insert(range.shifted(by: piece.lowerBound))
    }
  }
}

/// A copy that is read back and mended.
public struct Verification: Sendable {
  /// What was copied.
  public var source: IORegion
  /// Where it was written, and is written again.
  public var destinations: [IORegion]
  /// The same regions, read past the cache.
  public var readBack: [IORegion]
  /// What each destination is said to hold; other sectors aren't looked at.
  public var written: [RangeSet<Sector>]
  /// Sectors of the source known to read as zeros.
  public var holes: RangeSet<Sector>
  /// How often what differs is written and checked again.
  public var retries: Int

  /// A verification.
  public init(
    source: IORegion, destinations: [IORegion], readBack: [IORegion], written: [RangeSet<Sector>],
    holes: RangeSet<Sector> = .init(), retries: Int = 1
  ) {
    precondition(destinations.count == readBack.count && destinations.count == written.count)
    self.source = source
    self.destinations = destinations
    self.readBack = readBack
    self.written = written
    self.holes = holes
    self.retries = retries
  }

  /// Reads everything back, writes again what differs, and checks that again.
  ///
  /// Ends early when the task is cancelled; what wasn't looked at is said.
  ///
  /// - Parameters:
  ///   - client: writes again, and lends its loop.
  ///   - progress: told what has been compared, as written.
  /// - Throws: when there is no memory for it.
  public func run(
    with client: KcopydClient, progress: CopyProgress? = nil
  ) async throws(IOFailure) -> [VerifiedDestination] {
    // What none is said to hold may be what can't be read.
    let held = written.dropFirst().reduce(written.first ?? RangeSet()) { $0.union($1) }
    var results = try await ReadBack(
      source, readBack, of: held, holes: holes, progress: progress,
      on: client.loop
    ).run()
    for index in results.indices {
      keep(written[index], in: &results[index])
      var retry = 0
      while !results[index].differing.isEmpty, retry < retries, !Task.isCancelled {
        retry += 1
        results[index] = try await mend(results[index], index, client)
      }
    }
    return results
  }

  private func keep(_ written: RangeSet<Sector>, in result: inout VerifiedDestination) {
    result.differing.formIntersection(written)
    result.unchecked.formIntersection(written)
    result.unreadable.formIntersection(written)
  }

  private func mend(
    _ found: VerifiedDestination, _ index: Int, _ client: KcopydClient
  ) async throws(IOFailure) -> VerifiedDestination {
    for range in found.differing.ranges where !Task.isCancelled {
      // What can't be written stays different, and is found so.
      _ = try? await client.copy(
        from: IORegion(
          source.device, sector: source.sector + range.lowerBound, count: range.length),
        to: [
          IORegion(
            destinations[index].device, sector: destinations[index].sector + range.lowerBound,
            count: range.length)
        ])
    }
    try await destinations[index].device.flush()
    await (readBack[index].device as? FileDevice)?.dropCache()
    var again = found
    let checked = try await ReadBack(
      source, [readBack[index]], of: found.differing, holes: holes, progress: nil, on: client.loop
    ).run()[0]
    again.rewritten = max(found.rewritten, found.differing.sectorCount)
    again.differing = checked.differing
    again.unchecked.formUnion(checked.unchecked)
    again.unreadable.formUnion(checked.unreadable)
    again.failure = found.failure ?? checked.failure
    return again
  }
}
