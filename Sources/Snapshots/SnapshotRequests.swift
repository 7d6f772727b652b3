import BlockIO
import Kcopyd
import SystemPackage

// Requests to a snapshot.

extension Origin {
  // MARK: Reading

  /// Reads a snapshot: from the COW device what has been copied, from the origin all else.
  func read(
    _ snapshot: Snapshot, _ name: String, _ sectors: Range<Sector>, into buffer: IOBuffer
  ) async throws(IOFailure) {
    guard snapshot.isServing else { throw snapshot.refusal(.read, name, sectors) }
    snapshot.requests.add(1)
    defer { snapshot.requests.remove(1) }
    let pieces = snapshot.pieces(of: sectors)
    // All noted before the first one starts: while one is read, others mustn't change.
    let tracked = pieces.lazy.filter { $0.cow == nil }.map {
      snapshot.originReads.begin($0.sectors)
    }
    let numbers = Array(tracked)
    defer { for number in numbers { snapshot.originReads.end(number) } }
    let reads = pieces.map { piece in
      PieceRead(
        device: piece.cow == nil ? underlying : snapshot.cow, sectors: piece.target,
        buffer: buffer.slice(piece.sectors.lowerBound - sectors.lowerBound, piece.sectors.length),
        name: name, asked: piece.sectors)
    }
    try await PieceRead.all(reads, on: loop)
    // While it was valid nothing that was read can have changed; after that it may have.
    if !numbers.isEmpty, !snapshot.isValid { throw snapshot.refusal(.read, name, sectors) }
  }

  // MARK: Writing

  /// Writes to a snapshot. Chunks written as a whole go to the COW device as they are; of others
  /// the snapshot gets its copy first.
  func write(
    _ snapshot: Snapshot, _ name: String, _ sectors: Range<Sector>, from buffer: IOBuffer,
    options: WriteOptions
  ) async throws(IOFailure) {
    snapshot.requests.add(1)
    defer { snapshot.requests.remove(1) }
    var rest = sectors
    while !rest.isEmpty {
      let piece = rest.lowerBound..<min(rest.upperBound, rest.lowerBound + Self.pieceLimit)
      let part = SectorData(
        sectors: piece,
        buffer: buffer.slice(piece.lowerBound - sectors.lowerBound, piece.length))
      await snapshot.copies.waitBelowLimit()
      try await writePiece(snapshot, name, part, options)
      rest = piece.upperBound..<rest.upperBound
    }
  }

  private func writePiece(
    _ snapshot: Snapshot, _ name: String, _ data: SectorData, _ options: WriteOptions
  ) async throws(IOFailure) {
    var left = [data.sectors]
    while !left.isEmpty {
      guard snapshot.isServing, !snapshot.isOverflowed else {
        throw snapshot.refusal(.write, name, data.sectors)
      }
      let plan = SnapshotWritePlan(snapshot, left)
      startCopies(plan.copied.isEmpty ? [] : [(snapshot, plan.copied)])
      startWriting(plan.whole, of: snapshot, data)
      var failure: IOFailure?
      for piece in plan.inPlace where failure == nil {
        do throws(IOFailure) {
          try await snapshot.cow.write(
            piece.target, from: data.part(piece.sectors), options: options)
        } catch {
          failure = error.at(piece.sectors, of: name)
        }
      }
      // On every way: what they write from is the caller's.
      for pending in plan.waits { await pending.wait() }
      if let failure { throw failure }
      if plan.whole.contains(where: { !$0.isCompleted }) {
        throw snapshot.refusal(.write, name, data.sectors)
      }
      // Who has waited looks again first.
      if plan.isStarving, plan.waits.isEmpty, plan.inPlace.isEmpty {
        await makeRoom(for: snapshot, isOriginWrite: false)
      }
      left = plan.left
    }
  }

  /// Starts writing whole chunks to where they will be; neighbours in one request.
  private func startWriting(
    _ whole: [PendingException], of snapshot: Snapshot, _ data: SectorData
  ) {
    for pending in whole { pending.transfersLeft += 1 }
    for extent in snapshot.extents(of: whole) {
      Task.immediate(executorPreference: loop) {
        await self.writeWhole(extent, of: snapshot, data)
      }
    }
  }

  private func writeWhole(
    _ extent: FanOut.Extent, of snapshot: Snapshot, _ data: SectorData
  ) async {
    var failure: IOFailure?
    do throws(IOFailure) {
      try await snapshot.cow.write(
        extent.cow..<extent.cow + extent.origin.length, from: data.part(extent.origin))
    } catch {
      failure = error
    }
    for pending in snapshot.pending(in: extent.origin) { pending.transferEnded(failure) }
    commitReady(snapshot)
  }

  // MARK: Discarding

  /// Discards part of a snapshot: zeroed where it has a chunk of its own, else left alone.
  func discard(
    _ snapshot: Snapshot, _ name: String, _ sectors: Range<Sector>
  ) async throws(IOFailure) {
    guard snapshot.parameters.discardZeroesCow else {
      throw IOFailure(.discard, name, sectors, errno: .notSupported)
    }
    guard snapshot.isServing, !snapshot.isOverflowed else {
      throw snapshot.refusal(.discard, name, sectors)
    }
    snapshot.requests.add(1)
    defer { snapshot.requests.remove(1) }
    await snapshot.copies.waitBelowLimit()
    for piece in snapshot.pieces(of: sectors) where piece.cow != nil {
      try await discard(piece, of: snapshot, name)
    }
    guard snapshot.parameters.discardPassdownOrigin else { return }
    let number = snapshot.originReads.begin(sectors)
    defer { snapshot.originReads.end(number) }
    do throws(IOFailure) {
      try await underlying.discard(sectors)
    } catch {
      throw error.at(sectors, of: name)
    }
  }

  private func discard(
    _ piece: Piece, of snapshot: Snapshot, _ name: String
  ) async throws(IOFailure) {
    // Whole chunks are zeroed, so that the snapshot reads zeros; of the rest the device decides.
    let size = snapshot.chunkSize
    let first = Sector(
      (piece.sectors.lowerBound.rawValue + size.sectors.rawValue - 1)
        / size.sectors.rawValue * size.sectors.rawValue)
    let last = piece.sectors.upperBound - size.offset(of: piece.sectors.upperBound)
    do throws(IOFailure) {
      guard first < last else { return try await snapshot.cow.discard(piece.target) }
      let head = piece.sectors.lowerBound..<first
      let tail = last..<piece.sectors.upperBound
      if !head.isEmpty { try await snapshot.cow.discard(piece.target(of: head)) }
      snapshot.beginCopies(1)
      defer { snapshot.endCopies(1) }
      try await snapshot.cow.writeZeroes(piece.target(of: first..<last), mayUnmap: false)
      if !tail.isEmpty { try await snapshot.cow.discard(piece.target(of: tail)) }
    } catch {
      throw error.at(piece.sectors, of: name)
    }
  }

  // MARK: Extents

  /// What is known of the content of a snapshot.
  func blockStatus(
    _ snapshot: Snapshot, _ name: String, _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    guard snapshot.isServing else { throw snapshot.refusal(.blockStatus, name, sectors) }
    snapshot.requests.add(1)
    defer { snapshot.requests.remove(1) }
    // As for a read: what the origin says is of no use once it holds something else.
    let number = snapshot.originReads.begin(sectors)
    defer { snapshot.originReads.end(number) }
    let extents = try await extents(
      of: snapshot.pieces(of: sectors), over: snapshot, name, limit: limit)
    guard snapshot.isValid else { throw snapshot.refusal(.blockStatus, name, sectors) }
    return extents
  }

  /// What is known of pieces that follow each other.
  func extents(
    of pieces: [Piece], over snapshot: Snapshot, _ name: String, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    var extents: [BlockExtent] = []
    for piece in pieces where extents.count < limit {
      let device = piece.cow == nil ? underlying : snapshot.cow
      var rest = piece.sectors
      while !rest.isEmpty, extents.count < limit {
        let found: [BlockExtent]
        do throws(IOFailure) {
          found = try await device.blockStatus(
            piece.target(of: rest), limit: limit - extents.count)
        } catch {
          throw error.at(rest, of: name)
        }
        guard let end = found.last?.sectors.upperBound else { return extents }
        let start = piece.target(of: rest).lowerBound
        for extent in found {
          let first = rest.lowerBound + (extent.sectors.lowerBound - start)
          extents.append(BlockExtent(first..<first + extent.sectors.length, extent.status))
        }
        rest = rest.lowerBound + (end - start)..<rest.upperBound
      }
    }
    return extents
  }
}

/// Sectors of a device, and where their content is.
struct Piece {
  let sectors: Range<Sector>
  /// The first sector on the COW device; nil: on the origin, at the same place.
  let cow: Sector?

  var target: Range<Sector> { target(of: sectors) }

  func target(of part: Range<Sector>) -> Range<Sector> {
    guard let cow else { return part }
    let start = cow + (part.lowerBound - sectors.lowerBound)
    return start..<start + part.length
  }
}

/// The data of a write.
struct SectorData: Sendable {
  let sectors: Range<Sector>
  let buffer: IOBuffer

  func part(_ part: Range<Sector>) -> IOBuffer {
    buffer.slice(part.lowerBound - sectors.lowerBound, part.length)
  }
}

/// What is to be done for a write to a snapshot.
private struct SnapshotWritePlan {
  /// Written to where the chunk is.
  var inPlace: [Piece] = []
  /// Exceptions made for chunks that are written as a whole.
  var whole: [PendingException] = []
  /// Exceptions made for others: copied first.
  var copied: [PendingException] = []
  /// All exceptions to wait for, those included.
  var waits: [PendingException] = []
  /// What is to be looked at again.
  var left: [Range<Sector>] = []
  var isStarving = false

  init(_ snapshot: Snapshot, _ ranges: [Range<Sector>]) {
    for range in ranges { add(snapshot, range) }
    waits += whole + copied
  }

  private mutating func add(_ snapshot: Snapshot, _ sectors: Range<Sector>) {
    for piece in snapshot.pieces(of: sectors) {
      guard piece.cow == nil else {
        inPlace.append(piece)
        continue
      }
      var rest = piece.sectors
      while !rest.isEmpty {
        let part = snapshot.chunkSize.firstPart(of: rest)
        rest = part.upperBound..<rest.upperBound
        add(snapshot, partOfChunk: part)
      }
    }
  }

  private mutating func add(_ snapshot: Snapshot, partOfChunk part: Range<Sector>) {
    let chunk: OriginChunk = snapshot.chunkSize.chunk(of: part.lowerBound)
    if let pending = snapshot.pending[chunk] {
      waits.append(pending)
    } else if !isStarving, let pending = snapshot.makePending(chunk) {
      if part.length == snapshot.chunkSize.sectors { return whole.append(pending) }
      copied.append(pending)
    } else {
      isStarving = true
    }
    left.append(part)
  }
}

extension Snapshot {
  /// Where the content of `sectors` is, neighbours joined. What lies behind the snapshot's end is
  /// the origin's alone, also within the last chunk.
  func pieces(of sectors: Range<Sector>) -> [Piece] {
    var pieces: [Piece] = []
    let end = max(sectors.lowerBound, min(sectors.upperBound, sectorCount))
    var rest = sectors.lowerBound..<end
    while !rest.isEmpty {
      let chunk: OriginChunk = chunkSize.chunk(of: rest.lowerBound)
      let run = completed.run(from: chunk.rawValue)
      let piece: Piece
      if let run, run.key == chunk.rawValue {
        let end = chunkSize.start(of: OriginChunk(run.keys.upperBound))
        let start = chunkSize.start(of: CowChunk(run.value))
        piece = Piece(
          sectors: rest.lowerBound..<min(end, rest.upperBound),
          cow: start + chunkSize.offset(of: rest.lowerBound))
      } else {
        let end = run.map { chunkSize.start(of: OriginChunk($0.key)) } ?? rest.upperBound
        piece = Piece(sectors: rest.lowerBound..<min(end, rest.upperBound), cow: nil)
      }
      rest = piece.sectors.upperBound..<rest.upperBound
      pieces.append(piece)
    }
    if end < sectors.upperBound {
      pieces.append(Piece(sectors: end..<sectors.upperBound, cow: nil))
    }
    return pieces
  }
}

/// A part of a read, from one device.
struct PieceRead: Sendable {
  let device: any BlockDevice
  let sectors: Range<Sector>
  let buffer: IOBuffer
  /// The device that was asked, and for what.
  let name: String
  let asked: Range<Sector>

  private static let parallelism = 16

  func run() async throws(IOFailure) {
    do throws(IOFailure) {
      try await device.read(sectors, into: buffer)
    } catch {
      throw error.at(error.moved(from: sectors, to: asked), of: name)
    }
  }

  private func failure() async -> IOFailure? {
    do throws(IOFailure) {
      try await run()
      return nil
    } catch {
      return error
    }
  }

  /// Does all of them, several at once; the first failure in their order.
  static func all(_ reads: [PieceRead], on loop: IOLoop) async throws(IOFailure) {
    if reads.count == 1 { return try await reads[0].run() }
    let failures = await withTaskGroup(of: (Int, IOFailure?).self) { group in
      var failures: [Int: IOFailure] = [:]
      for (index, read) in reads.enumerated() {
        if index >= parallelism, let (index, failure) = await group.next() {
          failures[index] = failure
        }
        group.addTask(executorPreference: loop) { (index, await read.failure()) }
      }
      for await (index, failure) in group { failures[index] = failure }
      return failures
    }
    if let first = failures.min(by: { $0.key < $1.key }) { throw first.value }
  }
}

extension IOFailure {
  /// Where on the device that was asked the failure is.
  func moved(from sectors: Range<Sector>, to asked: Range<Sector>) -> Range<Sector> {
    guard let failed = self.sectors, failed.overlaps(sectors) else { return asked }
    let start = max(failed.lowerBound, sectors.lowerBound) - sectors.lowerBound
    return asked.lowerBound + start..<asked.upperBound
  }

  /// The failure of a request to another device, which this one was a part of.
  func at(_ sectors: Range<Sector>, of name: String) -> IOFailure {
    IOFailure(operation, name, sectors, errno: errno, detail: description)
  }
}
