public import BlockIO

/// The status of every sector of a device, neighbours of one status as a run. Pure.
public struct StatusMap: Hashable, Sendable {
  /// A run of sectors of one status.
  public struct Run: Hashable, Sendable {
    /// Where.
    public var sectors: Range<Sector>
    /// What is known of them.
    public var status: BlockStatus
  }

  /// Ascending, without gaps from sector 0 on; neighbours differ.
  public private(set) var runs: [Run]

  /// The length.
  public let count: Sector

  /// A map of `count` sectors of one status.
  public init(count: Sector, _ status: BlockStatus = .nonTried) {
    self.count = count
    runs = count == .zero ? [] : [Run(sectors: .zero..<count, status: status)]
  }

  // MARK: Looking

  /// The number of the run that holds `sector`.
  private func index(of sector: Sector) -> Int {
    var range = runs.indices
    while range.count > 1 {
      let middle = range.lowerBound + range.count / 2
      range =
        runs[middle].sectors.lowerBound <= sector
        ? middle..<range.upperBound : range.lowerBound..<middle
    }
    return range.lowerBound
  }

  /// The status of one sector.
  public subscript(sector: Sector) -> BlockStatus {
    precondition(sector < count)
    return runs[index(of: sector)].status
  }

  /// The first sectors of one of `statuses` within `sectors`, all that are in a run.
  public func first(_ statuses: Set<BlockStatus>, in sectors: Range<Sector>) -> Run? {
    guard !sectors.isEmpty else { return nil }
    for run in runs[index(of: sectors.lowerBound)...] {
      guard run.sectors.lowerBound < sectors.upperBound else { return nil }
      if statuses.contains(run.status) {
        return Run(sectors: run.sectors.clamped(to: sectors), status: run.status)
      }
    }
    return nil
  }

  /// The last sectors of one of `statuses` within `sectors`, all that are in a run.
  public func last(_ statuses: Set<BlockStatus>, in sectors: Range<Sector>) -> Run? {
    guard !sectors.isEmpty else { return nil }
    for run in runs[...index(of: sectors.upperBound - 1)].reversed() {
      guard run.sectors.upperBound > sectors.lowerBound else { return nil }
      if statuses.contains(run.status) {
        return Run(sectors: run.sectors.clamped(to: sectors), status: run.status)
      }
    }
    return nil
  }

  /// All sectors of one of `statuses` within `sectors`.
  public func sectors(_ statuses: Set<BlockStatus>, in sectors: Range<Sector>) -> RangeSet<Sector> {
    RangeSet(
      runs.lazy.filter { statuses.contains($0.status) }
        .map { $0.sectors.clamped(to: sectors) }.filter { !$0.isEmpty })
  }

  // MARK: Changing

  /// Gives `sectors` that status.
  public mutating func set(_ sectors: Range<Sector>, _ status: BlockStatus) {
    precondition(sectors.upperBound <= count)
    guard !sectors.isEmpty else { return }
    var first = index(of: sectors.lowerBound)
    var last = index(of: sectors.upperBound - 1)
    if first == last, runs[first].status == status { return }
    var new: [Run] = []
    var start = sectors.lowerBound
    var end = sectors.upperBound
    // What is left of the runs that are cut; what joins the new one becomes part of it.
    if runs[first].sectors.lowerBound < start {
      if runs[first].status == status {
        start = runs[first].sectors.lowerBound
      } else {
        new.append(Run(sectors: runs[first].sectors.lowerBound..<start, status: runs[first].status))
      }
    } else if first > 0, runs[first - 1].status == status {
      first -= 1
      start = runs[first].sectors.lowerBound
    }
    var tail: Run?
    if runs[last].sectors.upperBound > end {
      if runs[last].status == status {
        end = runs[last].sectors.upperBound
      } else {
        tail = Run(sectors: end..<runs[last].sectors.upperBound, status: runs[last].status)
      }
    } else if last + 1 < runs.count, runs[last + 1].status == status {
      last += 1
      end = runs[last].sectors.upperBound
    }
    new.append(Run(sectors: start..<end, status: status))
    if let tail { new.append(tail) }
    runs.replaceSubrange(first...last, with: new)
  }
}

// MARK: - Mapfiles

extension StatusMap {
  /// What a mapfile says of a source of `byteCount` bytes.
  ///
  /// A sector is finished only if all of its bytes are; otherwise it is what has been done least
  /// of any part of it. What the mapfile doesn't speak of hasn't been tried.
  public init(_ mapfile: Mapfile, byteCount: UInt64) {
    self.init(count: Sector(holding: byteCount))
    var blocks: [Mapfile.Block] = []
    for block in mapfile.blocks where block.bytes.lowerBound < byteCount {
      if let last = blocks.last, last.status == block.status {
        blocks[blocks.count - 1].bytes = last.bytes.lowerBound..<block.bytes.upperBound
      } else {
        blocks.append(block)
      }
    }
    for block in blocks where block.status == .finished {
      let (quotient, remainder) = block.bytes.lowerBound.quotientAndRemainder(
        dividingBy: Sector.byteCount)
      let start = Sector(quotient) + (remainder == 0 ? 0 : 1)
      let end =
        block.bytes.upperBound >= byteCount
        ? count : Sector(block.bytes.upperBound / Sector.byteCount)
      if start < end { set(start..<end, .finished) }
    }
    for status in [BlockStatus.badSector, .nonScraped, .nonTrimmed, .nonTried] {
      for block in blocks where block.status == status {
        let end = min(count, Sector(holding: block.bytes.upperBound))
        let start = min(end, Sector(block.bytes.lowerBound / Sector.byteCount))
        set(start..<end, status)
      }
    }
    // What lies outside of the blocks may share a sector with them.
    let extent = mapfile.extent
    if !extent.isEmpty, extent.upperBound < byteCount {
      set(Sector(extent.upperBound / Sector.byteCount)..<count, .nonTried)
    }
    if extent.lowerBound > 0 {
      set(.zero..<min(count, Sector(holding: extent.lowerBound)), .nonTried)
    }
  }

  /// The blocks of a mapfile of a source of `byteCount` bytes.
  public func blocks(byteCount: UInt64) -> [Mapfile.Block] {
    runs.compactMap { run in
      let end = min(run.sectors.upperBound.bytes, byteCount)
      let start = run.sectors.lowerBound.bytes
      return start < end ? Mapfile.Block(start..<end, run.status) : nil
    }
  }
}
