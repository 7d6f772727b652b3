import BlockIO

/// What a simulated disk holds: what reads see, and what is sure to survive a loss of power.
///
/// Between the two lie the pieces written and not yet made durable. A flush moves those to the
/// stable side whose requests had completed when it started – not one more, since no promise covers
/// it. A loss of power moves a random part of the rest there, sector by sector.
struct DiskContents: Sendable {
  /// What reads see.
  private(set) var current: [UInt8]
  /// What survives for certain.
  private(set) var stable: [UInt8]
  /// What is known to read as zeros without reading it.
  private(set) var zeroes: RangeSet<Sector>

  /// Written in this order, not yet durable.
  private var pieces: [Piece] = []
  /// How many requests had completed when that one had, itself counted.
  private var completion: [Int: Int] = [:]
  private let isVolatile: Bool

  private struct Piece: Sendable {
    let request: Int
    var sectors: Range<Sector>
    /// The content from sector `first` on; `sectors` may have become fewer than it holds.
    let first: Sector
    let bytes: [UInt8]
  }

  init(_ bytes: [UInt8], zeroes: RangeSet<Sector>, isVolatile: Bool) {
    current = bytes
    stable = bytes
    self.zeroes = zeroes
    self.isVolatile = isVolatile
  }

  /// A point in the order of completions, for ``makeDurable(before:)``.
  var now: Int { completion.count }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) {
    buffer.load(from: current, at: Int(sectors.lowerBound.bytes))
  }

  func contents(_ sectors: Range<Sector>) -> [UInt8] {
    current.copy(at: Int(sectors.lowerBound.bytes), count: Int(sectors.length.bytes))
  }

  /// As if it had always been there.
  mutating func fill(_ sectors: Range<Sector>, _ bytes: [UInt8]) {
    current.overwrite(at: Int(sectors.lowerBound.bytes), with: bytes)
    stable.overwrite(at: Int(sectors.lowerBound.bytes), with: bytes)
    zeroes.remove(contentsOf: sectors)
    forget(sectors)
  }

  /// Adds zeros at the end, durable at once, until there are `sectorCount` sectors.
  mutating func grow(to sectorCount: Sector) {
    let old = Sector(holding: UInt64(current.count))
    guard old < sectorCount else { return }
    let more = [UInt8](repeating: 0, count: Int((sectorCount - old).bytes))
    current.append(contentsOf: more)
    stable.append(contentsOf: more)
    zeroes.insert(old..<sectorCount)
  }

  /// How many sectors there are.
  var sectorCount: Sector { Sector(holding: UInt64(current.count)) }

  /// Reads see these bytes from now on.
  mutating func land(
    _ sectors: Range<Sector>, _ bytes: [UInt8], request: Int, areZeroes: Bool
  ) {
    current.overwrite(at: Int(sectors.lowerBound.bytes), with: bytes)
    if areZeroes {
      zeroes.insert(contentsOf: sectors)
    } else {
      zeroes.remove(contentsOf: sectors)
    }
    guard isVolatile else {
      return stable.overwrite(at: Int(sectors.lowerBound.bytes), with: bytes)
    }
    pieces.append(
      Piece(request: request, sectors: sectors, first: sectors.lowerBound, bytes: bytes))
  }

  /// The request's initiator has been told that it is done.
  mutating func complete(request: Int) {
    completion[request] = completion.count + 1
  }

  /// Makes all durable whose requests had completed at `point`.
  mutating func makeDurable(before point: Int) {
    let completion = completion
    makeDurable { completion[$0.request].map { $0 <= point } ?? false }
  }

  /// Makes one request durable.
  mutating func makeDurable(request: Int) {
    makeDurable { $0.request == request }
  }

  private mutating func makeDurable(where isCovered: (Piece) -> Bool) {
    let all = pieces
    pieces = []
    for piece in all {
      if isCovered(piece) {
        // What was written there before it can't come back any more.
        forget(piece.sectors)
        store(piece, piece.sectors)
      } else {
        pieces.append(piece)
      }
    }
  }

  /// Takes `sectors` out of the pieces gathered so far.
  private mutating func forget(_ sectors: Range<Sector>) {
    guard pieces.contains(where: { $0.sectors.overlaps(sectors) }) else { return }
    pieces = pieces.flatMap { piece in
      let rest = RangeSet(piece.sectors).subtracting(RangeSet(sectors))
      return rest.ranges.map { range in
        var part = piece
        part.sectors = range
        return part
      }
    }
  }

  private mutating func store(_ piece: Piece, _ sectors: Range<Sector>) {
    stable.overwrite(
      at: Int(sectors.lowerBound.bytes), with: piece.bytes,
      from: Int((sectors.lowerBound - piece.first).bytes), count: Int(sectors.length.bytes))
  }

  /// Power is lost: each sector of each piece survives or not.
  ///
  /// How likely they do is drawn once per crash, so that nearly all and nearly none also happen.
  mutating func crash(random: inout SeededRandom) {
    let survival = random.next(upperBound: UInt64(9))
    for piece in pieces {
      var sector = piece.sectors.lowerBound
      while sector < piece.sectors.upperBound {
        if random.chance(survival, in: 8) { store(piece, sector..<sector + 1) }
        sector += 1
      }
    }
    pieces = []
    current = stable
    zeroes = RangeSet()
  }
}

extension [UInt8] {
  /// A part, copied in one go also without the optimizer.
  func copy(at offset: Int, count: Int) -> [UInt8] {
    precondition(offset >= 0 && offset + count <= self.count)
    return withUnsafeBytes { source in
      // Within the array: checked above.
      [UInt8](unsafeUninitializedCapacity: count) { target, initialized in
        UnsafeMutableRawBufferPointer(target)
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[offset..<offset + count]))
        initialized = count
      }
    }
  }

  /// Overwrites a part, in one go also without the optimizer.
  mutating func overwrite(at offset: Int, with source: [UInt8]) {
    overwrite(at: offset, with: source, from: 0, count: source.count)
  }

  /// Overwrites a part with a part of `source`.
  mutating func overwrite(at offset: Int, with source: [UInt8], from start: Int, count: Int) {
    precondition(offset >= 0 && offset + count <= self.count)
    precondition(start >= 0 && start + count <= source.count)
    // Within both arrays: checked above.
    source.withUnsafeBytes { source in
      withUnsafeMutableBytes { target in
        UnsafeMutableRawBufferPointer(rebasing: target[offset..<offset + count])
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[start..<start + count]))
      }
    }
  }
}
