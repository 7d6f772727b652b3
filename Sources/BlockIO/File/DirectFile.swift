import SystemPackage

/// The `O_DIRECT` side of a file device: whole blocks straight through the loop's backend, begun
/// ones through a bounce block.
final class DirectFile: Sendable {
  let file: FileDescriptor

  private let cached: PageCachedFile
  private let blockSize: UInt64
  private let memoryAlignment: Int
  /// Where begun blocks are put together, one at a time: two that change the same block would
  /// undo each other.
  private let bounce: PagePool

  /// A single request to the kernel; longer ones are continued like short ones.
  private static let longestRequest = 1 << 30

  init(
    file: FileDescriptor, cached: PageCachedFile, block: Int, memoryAlignment: Int
  ) throws(IOFailure) {
    self.file = file
    self.cached = cached
    self.memoryAlignment = memoryAlignment
    blockSize = UInt64(block)
    // One block, taken as a whole: the pool is the lock.
    bounce = try PagePool(pageCount: max(1, block / PagePool.pageSize))
  }

  /// Of the file as long as it is now.
  private var layout: DirectLayout {
    DirectLayout(block: blockSize, byteCount: cached.byteCount, page: UInt64(PagePool.pageSize))
  }

  // Nothing can be under way: whoever awaits a transfer holds this object.
  deinit { try? file.close() }

  func read(
    _ sectors: Range<Sector>, into buffer: IOBuffer, loop: IOLoop
  ) async throws(IOFailure) {
    let end = min(sectors.upperBound.bytes, cached.byteCount)
    var rest = sectors.lowerBound.bytes..<max(sectors.lowerBound.bytes, end)
    while !rest.isEmpty {
      let (way, bytes) = firstPiece(of: rest, in: buffer, from: sectors.lowerBound)
      let piece = Piece(bytes, of: sectors, in: buffer)
      switch way {
      case .direct: try await readDirect(piece, loop: loop)
      case .bounce: try await readBounced(bytes, piece, loop: loop)
      case .cached:
        try await loop.transferring { [cached] in
          Result { () throws(IOFailure) in try cached.read(piece.sectors, into: piece.buffer) }
        }.get()
      }
      rest = bytes.upperBound..<rest.upperBound
    }
  }

  /// Writes; durable when it returns if `options` say so.
  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions, loop: IOLoop
  ) async throws(IOFailure) {
    let end = min(sectors.upperBound.bytes, cached.byteCount)
    var rest = sectors.lowerBound.bytes..<max(sectors.lowerBound.bytes, end)
    while !rest.isEmpty {
      let (way, bytes) = firstPiece(of: rest, in: buffer, from: sectors.lowerBound)
      let piece = Piece(bytes, of: sectors, in: buffer)
      switch way {
      case .direct: try await writeDirect(piece, options, loop: loop)
      case .bounce: try await writeBounced(bytes, piece, options, loop: loop)
      case .cached:
        try await loop.transferring { [cached] in
          Result { () throws(IOFailure) in
            try cached.write(piece.sectors, from: piece.buffer, options: options)
          }
        }.get()
      }
      rest = bytes.upperBound..<rest.upperBound
    }
  }

  /// A part of a request: its sectors and the part of the buffer that belongs to them.
  private struct Piece: Sendable {
    let sectors: Range<Sector>
    let buffer: IOBuffer

    init(_ bytes: Range<UInt64>, of whole: Range<Sector>, in buffer: IOBuffer) {
      // Pieces begin at blocks or where the request does: always at whole sectors.
      let first = Sector(bytes.lowerBound / Sector.byteCount)
      sectors = first..<Sector(holding: bytes.upperBound)
      self.buffer = buffer.slice(first - whole.lowerBound, sectors.length)
    }

    init(_ sectors: Range<Sector>, _ buffer: IOBuffer) {
      self.sectors = sectors
      self.buffer = buffer
    }
  }

  /// The layout's piece; memory that the device can't reach goes block by block through the
  /// bounce block.
  private func firstPiece(
    of range: Range<UInt64>, in buffer: IOBuffer, from first: Sector
  ) -> (way: DirectLayout.Way, bytes: Range<UInt64>) {
    let (way, bytes) = layout.firstPiece(of: range)
    guard way == .direct else { return (way, bytes) }
    let address = UInt(bitPattern: buffer.base) + UInt(bytes.lowerBound - first.bytes)
    if address % UInt(memoryAlignment) == 0 { return (way, bytes) }
    return (.bounce, bytes.lowerBound..<bytes.lowerBound + blockSize)
  }

  // MARK: Straight

  private func readDirect(_ piece: Piece, loop: IOLoop) async throws(IOFailure) {
    var done = 0
    while done < piece.buffer.byteCount {
      let count = await request(.read, piece, from: done, loop: loop)
      switch count {
      case 1...: done += count
      case 0: throw cached.endedEarly(at: done, of: piece.sectors)
      case -Int(Errno.interrupted.rawValue): continue
      default: throw cached.failure(.read, count, at: done, of: piece.sectors)
      }
    }
  }

  private func writeDirect(
    _ piece: Piece, _ options: WriteOptions, loop: IOLoop
  ) async throws(IOFailure) {
    let direction: TransferRequest.Direction =
      options.contains(.durable) ? .writeDurably : .write
    var done = 0
    while done < piece.buffer.byteCount {
      let count = await request(direction, piece, from: done, loop: loop)
      switch count {
      case 1...: done += count
      case -Int(Errno.interrupted.rawValue): continue
      case 0:
        throw cached.failure(.write, -Int(Errno.noSpace.rawValue), at: done, of: piece.sectors)
      default: throw cached.failure(.write, count, at: done, of: piece.sectors)
      }
    }
  }

  private func request(
    _ direction: TransferRequest.Direction, _ piece: Piece, from done: Int, loop: IOLoop
  ) async -> Int {
    // A transfer that stopped within a block goes on at its start: the kernel takes whole ones.
    let start = done / Int(blockSize) * Int(blockSize)
    let count = min(piece.buffer.byteCount - start, Self.longestRequest)
    let memory = UnsafeMutableRawBufferPointer(start: piece.buffer.base + start, count: count)
    let result = await loop.transfer(
      TransferRequest(direction, file, memory, at: piece.sectors.lowerBound.bytes + UInt64(start)))
    return result > 0 ? result - (done - start) : result
  }

  // MARK: Begun blocks

  private func readBounced(
    _ bytes: Range<UInt64>, _ piece: Piece, loop: IOLoop
  ) async throws(IOFailure) {
    let pages = await bounce.take(bounce.pageCount)
    let block = self.block(around: bytes, pages.buffer)
    try await inBlock(piece) { () throws(IOFailure) in
      try await readDirect(block, loop: loop)
    }
    piece.buffer.copy(from: part(of: block, piece.sectors))
  }

  private func writeBounced(
    _ bytes: Range<UInt64>, _ piece: Piece, _ options: WriteOptions, loop: IOLoop
  ) async throws(IOFailure) {
    let pages = await bounce.take(bounce.pageCount)
    let block = self.block(around: bytes, pages.buffer)
    try await inBlock(piece) { () throws(IOFailure) in
      if UInt64(bytes.count) < blockSize { try await readDirect(block, loop: loop) }
      part(of: block, piece.sectors).copy(from: piece.buffer)
      try await writeDirect(block, options, loop: loop)
    }
  }

  private func block(around bytes: Range<UInt64>, _ buffer: IOBuffer) -> Piece {
    let start = Sector(bytes.lowerBound / blockSize * blockSize / Sector.byteCount)
    let count = Sector(blockSize / Sector.byteCount)
    return Piece(start..<start + count, buffer.slice(0, count))
  }

  private func part(of block: Piece, _ sectors: Range<Sector>) -> IOBuffer {
    block.buffer.slice(sectors.lowerBound - block.sectors.lowerBound, sectors.length)
  }

  /// A block that fails is reported as the sectors of it that were asked for.
  private func inBlock(
    _ piece: Piece, _ body: () async throws(IOFailure) -> Void
  ) async throws(IOFailure) {
    do {
      try await body()
    } catch {
      throw error.at(piece.sectors)
    }
  }
}
