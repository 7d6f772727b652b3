package import BlockIO

/// What becomes of a part of a segment at one destination.
package struct WritePiece: Equatable {
  package enum Action: Equatable {
    /// Its data are written.
    case write
    /// It is zeroed by command.
    case zero
    /// It is zeros there already.
    case leaveZero
    /// It was read there, and is the same.
    case leaveEqual
  }

  /// Counted from the start of the segment.
  package let sectors: Range<Sector>
  package let action: Action

  /// Does it to a device of which sector `start` belongs to the segment's first.
  package func perform(
    with data: IOBuffer, from start: Sector, of device: any BlockDevice, mayUnmap: Bool
  ) async throws(IOFailure) {
    let place = sectors.shifted(by: start)
    switch action {
    case .write:
      try await device.write(place, from: data.slice(sectors.lowerBound, sectors.length))
    case .zero: try await device.writeZeroes(place, mayUnmap: mayUnmap)
    case .leaveZero, .leaveEqual: return
    }
  }
}

/// How one destination treats zeros.
package struct ZeroTreatment {
  /// The unit in which they are looked for: the destination's block, at least 4 KiB.
  let block: Sector
  /// Whether the destination reads as zeros already.
  let isBlank: Bool
  /// The shortest run that isn't written as data; nil: none is.
  let shortestRun: Sector?

  package init(_ content: CopyContent, destination: IORegion, index: Int) {
    let block = destination.device.limits.zeroBlock
    let isBlank = content.blankDestinations.contains(index)
    self.block = block
    self.isBlank = isBlank
    shortestRun = content.shortestZeroRun.map { isBlank ? block : max(block, $0) }
  }

  /// What a hole of that length becomes.
  func pieces(ofHole length: Sector) -> [WritePiece] {
    [WritePiece(sectors: .zero..<length, action: isBlank ? .leaveZero : .zero)]
  }

  /// What `data` becomes, whose first sector goes to `start` of the destination.
  package func pieces(of data: IOBuffer, at start: Sector) -> [WritePiece] {
    let all = Sector.zero..<data.sectorCount
    guard let shortestRun else { return [WritePiece(sectors: all, action: .write)] }
    return data.runs(block: block, at: start, shortestZero: shortestRun).map {
      WritePiece(
        sectors: $0.sectors, action: !$0.isZero ? .write : isBlank ? .leaveZero : .zero)
    }
  }

  /// What `data` becomes where the destination holds `present`.
  func pieces(of data: IOBuffer, over present: IOBuffer, at start: Sector) -> [WritePiece] {
    var differing = RangeSet<Sector>()
    for range in data.differences(from: present).ranges {
      // Whole blocks of the destination, as far as the segment has them.
      differing.insert(
        block.around(range.shifted(by: start)).clamped(to: start..<start + data.sectorCount))
    }
    var pieces: [WritePiece] = []
    var position = Sector.zero
    for range in differing.ranges {
      let here = range.lowerBound - start..<range.upperBound - start
      if position < here.lowerBound {
        pieces.append(WritePiece(sectors: position..<here.lowerBound, action: .leaveEqual))
      }
      let isLong = shortestRun.map { here.length >= $0 } ?? false
      let isZero = isLong && data.slice(here.lowerBound, here.length).isZero
      pieces.append(WritePiece(sectors: here, action: isZero ? .zero : .write))
      position = here.upperBound
    }
    if position < data.sectorCount {
      pieces.append(WritePiece(sectors: position..<data.sectorCount, action: .leaveEqual))
    }
    return pieces
  }
}

extension DeviceLimits {
  /// The unit in which zeros are looked for, and differences written.
  var zeroBlock: Sector { Sector(holding: UInt64(max(4096, physicalBlock))) }
}

extension Sector {
  /// The range of whole blocks of this size that holds `range`.
  fileprivate func around(_ range: Range<Sector>) -> Range<Sector> {
    let start = range.lowerBound.rawValue / rawValue * rawValue
    let end = (range.upperBound.rawValue + rawValue - 1) / rawValue * rawValue
    return Sector(start)..<Sector(end)
  }
}
