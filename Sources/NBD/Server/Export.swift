public import BlockIO
import NIOCore
import SystemPackage

/// A device under a name that clients use it by.
///
/// Clients count bytes, devices sectors: what isn't whole sectors is read, changed and written back
/// as such, one at a time and never beside another write to the same sector.
public actor Export {
  /// The name.
  public nonisolated let name: String
  /// A line for people.
  public nonisolated let summary: String
  /// The device.
  public nonisolated let device: any BlockDevice
  /// Whether writes are refused: asked for, or the device's own doing.
  public nonisolated let isReadOnly: Bool
  /// What has been done for clients.
  public nonisolated let counters = ExportCounters()

  /// Where the device is.
  nonisolated let loop: IOLoop
  private nonisolated let pool: PagePool
  private nonisolated let turns = WriteTurns()

  /// More than that is done in pieces: bounds the memory, whatever clients ask for.
  static let pieceBytes: UInt64 = 1 << 20

  /// An export.
  ///
  /// - Parameters:
  ///   - name: what clients call it; the empty name is the default of many.
  ///   - summary: a line for people who list exports.
  ///   - pool: where the memory of requests comes from.
  ///   - loop: where the server's connections and the device are.
  init(
    _ name: String, _ device: any BlockDevice, summary: String, isReadOnly: Bool, pool: PagePool,
    on loop: IOLoop
  ) {
    self.name = name
    self.device = device
    self.summary = summary
    self.isReadOnly = isReadOnly || device.limits.isReadOnly
    self.pool = pool
    self.loop = loop
  }

  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  /// What clients are told.
  nonisolated func offer(maximum: Int) -> OfferedExport {
    let limits = device.limits
    var flags: TransmissionFlags = [
      .hasFlags, .sendFlush, .sendFUA, .sendDF, .sendCache,
      // All connections use this one device, and its flush makes durable whatever has completed.
      .canMultiConn,
    ]
    if isReadOnly {
      flags.insert(.readOnly)
    } else {
      flags.formUnion([.sendWriteZeroes, .sendFastZero])
      if limits.supportsDiscard { flags.insert(.sendTrim) }
    }
    return OfferedExport(
      byteCount: device.byteCount, flags: flags, description: summary, minimumBlock: 1,
      preferredBlock: UInt32(min(maximum, max(4096, limits.physicalBlock))),
      maximumBlock: UInt32(maximum))
  }

  // MARK: Bytes and sectors

  /// The sectors that hold these bytes.
  private nonisolated func cover(_ bytes: Range<UInt64>) -> Range<Sector> {
    Sector(bytes.lowerBound / Sector.byteCount)..<Sector(holding: bytes.upperBound)
  }

  /// Whether these are whole sectors, the device's last one counted as whole.
  private nonisolated func isWhole(_ bytes: Range<UInt64>) -> Bool {
    bytes.lowerBound % Sector.byteCount == 0
      && (bytes.upperBound % Sector.byteCount == 0 || bytes.upperBound == device.byteCount)
  }

  /// Calls `body` with pieces that fit into the reserve, in order.
  private func inPieces(
    _ bytes: Range<UInt64>, _ body: (Range<UInt64>) async throws(IOFailure) -> Void
  ) async throws(IOFailure) {
    var start = bytes.lowerBound
    while start < bytes.upperBound {
      // Cut at multiples, so that all pieces but the first and the last are whole sectors.
      let end = min(bytes.upperBound, (start / Self.pieceBytes + 1) * Self.pieceBytes)
      try await body(start..<end)
      start = end
    }
  }

  // MARK: Without waiting

  /// Whether these begin and end with sectors, and are there.
  private nonisolated func isAligned(_ bytes: Range<UInt64>) -> Bool {
    bytes.lowerBound % Sector.byteCount == 0 && bytes.upperBound % Sector.byteCount == 0
  }

  /// Reads bytes and appends them to `output`, or does nothing if that would take waiting, more
  /// than reading, or fail. From any thread; so the following.
  nonisolated func readNow(_ bytes: Range<UInt64>, appendingTo output: inout ByteBuffer) -> Bool {
    guard isAligned(bytes) else { return false }
    return output.append(sectorBytes: bytes.count) {
      // What fails is done again, too: that way round it is told and logged.
      (try? device.readNow(cover(bytes), into: $0)) ?? false
    }
  }

  /// Reads bytes into memory that can be sent as it is.
  nonisolated func readNow(_ bytes: Range<UInt64>) -> ByteBuffer? {
    guard isAligned(bytes), bytes.count <= Self.pieceBytes else { return nil }
    let memory = RequestMemory(byteCount: bytes.count)
    let isDone = (try? device.readNow(cover(bytes), into: memory.buffer)) ?? false
    return isDone ? memory.content : nil
  }

  /// Writes `data` from the byte `start` on; if not, it is to be done again.
  nonisolated func writeNow(
    _ data: ReceivedData, at start: UInt64, isDurable: Bool
  ) -> Bool {
    let bytes = start..<start + UInt64(data.count)
    guard isAligned(bytes), bytes.count <= Self.pieceBytes else { return false }
    let sectors = cover(bytes)
    guard let turn = turns.tryBegin(sectors, isExclusive: false) else { return false }
    defer { turns.end(turn) }
    let options: WriteOptions = isDurable ? .durable : []
    return data.withSectors { (try? device.writeNow(sectors, from: $0, options: options)) ?? false }
  }

  // MARK: Reading

  /// Reads bytes and appends them to `output` – all or, if that fails, nothing.
  func read(_ bytes: Range<UInt64>, appendingTo output: inout ByteBuffer) async throws(IOFailure) {
    let start = output.writerIndex
    do throws(IOFailure) {
      var position = bytes.lowerBound
      while position < bytes.upperBound {
        let end = min(bytes.upperBound, (position / Self.pieceBytes + 1) * Self.pieceBytes)
        let piece = position..<end
        let sectors = cover(piece)
        let pages = await pool.take(PagePool.pages(holding: sectors.length))
        let buffer = pages.buffer.slice(.zero, sectors.length)
        try await device.read(sectors, into: buffer)
        let first = Int(piece.lowerBound - sectors.lowerBound.bytes)
        buffer.withBytes { span in
          _ = output.writeBytes(span.extracting(first..<first + piece.count))
        }
        position = end
      }
    } catch {
      output.moveWriterIndex(to: start)
      throw error
    }
  }

  /// Reads whole sectors into memory that can be sent as it is; nil for bytes that aren't.
  func readWhole(_ bytes: Range<UInt64>) async throws(IOFailure) -> ByteBuffer? {
    guard isAligned(bytes) else { return nil }
    let memory = RequestMemory(byteCount: bytes.count)
    let first = cover(bytes).lowerBound
    var done = Sector.zero
    while done < memory.buffer.sectorCount {
      let count = min(memory.buffer.sectorCount - done, Sector(holding: Self.pieceBytes))
      try await device.read(
        first + done..<first + done + count, into: memory.buffer.slice(done, count))
      done = done + count
    }
    return memory.content
  }

  /// Reads bytes to have them in the cache.
  func cache(_ bytes: Range<UInt64>) async throws(IOFailure) {
    try await inPieces(bytes) { (piece) throws(IOFailure) in
      let sectors = cover(piece)
      let pages = await pool.take(PagePool.pages(holding: sectors.length))
      try await device.read(sectors, into: pages.buffer.slice(.zero, sectors.length))
    }
  }

  // MARK: Writing

  /// Writes `data` from the byte `start` on.
  func write(_ data: ReceivedData, at start: UInt64, isDurable: Bool) async throws(IOFailure) {
    let options: WriteOptions = isDurable ? .durable : []
    let bytes = start..<start + UInt64(data.count)
    if let buffer = data.lasting, isAligned(bytes) {
      return try await write(cover(bytes), from: buffer, options)
    }
    try await inPieces(bytes) { (piece) throws(IOFailure) in
      let part = Int(piece.lowerBound - start)..<Int(piece.upperBound - start)
      try await put(piece, options) { buffer, offset in
        data.store(part, into: buffer, at: offset)
      }
    }
  }

  /// Writes whole sectors from where they are.
  private func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, _ options: WriteOptions
  ) async throws(IOFailure) {
    let turn = await turns.begin(sectors, isExclusive: false)
    defer { turns.end(turn) }
    var done = Sector.zero
    while done < buffer.sectorCount {
      let count = min(buffer.sectorCount - done, Sector(holding: Self.pieceBytes))
      let first = sectors.lowerBound + done
      try await device.write(
        first..<first + count, from: buffer.slice(done, count), options: options)
      done = done + count
    }
  }

  /// Has `fill` put the content of a piece into a buffer, from a byte offset on, and writes that.
  private func put(
    _ piece: Range<UInt64>, _ options: WriteOptions, _ fill: (IOBuffer, Int) -> Void
  ) async throws(IOFailure) {
    let sectors = cover(piece)
    let isWhole = isWhole(piece)
    let pages = await pool.take(PagePool.pages(holding: sectors.length))
    let buffer = pages.buffer.slice(.zero, sectors.length)
    let turn = await turns.begin(sectors, isExclusive: !isWhole)
    defer { turns.end(turn) }
    if isWhole {
      // Behind the end of a device that ends within a sector.
      if piece.count < buffer.byteCount { buffer.clear(piece.count..<buffer.byteCount) }
    } else {
      try await device.read(sectors, into: buffer)
    }
    fill(buffer, Int(piece.lowerBound - sectors.lowerBound.bytes))
    try await device.write(sectors, from: buffer, options: options)
  }

  /// Makes bytes zero, by command as far as they are whole sectors.
  ///
  /// - Parameters:
  ///   - mayUnmap: whether the space may be given back.
  ///   - isDurable: whether they are durable when this returns.
  func writeZeroes(
    _ bytes: Range<UInt64>, mayUnmap: Bool, isDurable: Bool
  ) async throws(IOFailure) {
    let first = (bytes.lowerBound + Sector.byteCount - 1) / Sector.byteCount * Sector.byteCount
    let last =
      bytes.upperBound == device.byteCount
      ? bytes.upperBound : bytes.upperBound / Sector.byteCount * Sector.byteCount
    let whole = min(first, bytes.upperBound)..<max(last, min(first, bytes.upperBound))
    for edge in [bytes.lowerBound..<whole.lowerBound, whole.upperBound..<bytes.upperBound]
    where !edge.isEmpty {
      try await put(edge, []) { buffer, offset in buffer.clear(offset..<offset + edge.count) }
    }
    if !whole.isEmpty {
      let sectors = cover(whole)
      let turn = await turns.begin(sectors, isExclusive: false)
      defer { turns.end(turn) }
      try await device.writeZeroes(sectors, mayUnmap: mayUnmap)
    }
    if isDurable { try await device.flush() }
  }

  /// Gives up the whole sectors among bytes – if the device can do that now: it may be another one
  /// below than when the client was told, and a trim promises nothing.
  func trim(_ bytes: Range<UInt64>, isDurable: Bool) async throws(IOFailure) {
    let sectors =
      Sector(
        holding: bytes.lowerBound)..<max(
        Sector(holding: bytes.lowerBound),
        bytes.upperBound == device.byteCount
          ? Sector(holding: bytes.upperBound) : Sector(bytes.upperBound / Sector.byteCount))
    if !sectors.isEmpty, device.limits.supportsDiscard {
      let turn = await turns.begin(sectors, isExclusive: false)
      defer { turns.end(turn) }
      try await device.discard(sectors)
    }
    if isDurable { try await device.flush() }
  }

  /// Makes durable whatever has been written.
  func flush() async throws(IOFailure) { try await device.flush() }

  // MARK: Extents

  /// The most extents of one answer.
  private static let extentLimit = 8192

  /// Lengths of extents from the first byte on, with what is known of them: at least one, and no
  /// further than the bytes go.
  func extents(
    of bytes: Range<UInt64>, onlyOne: Bool
  ) async throws(IOFailure) -> [(length: UInt32, flags: AllocationFlags)] {
    let found = try await device.blockStatus(cover(bytes), limit: onlyOne ? 1 : Self.extentLimit)
    var result: [(length: UInt32, flags: AllocationFlags)] = []
    for extent in found {
      let start = max(bytes.lowerBound, extent.sectors.lowerBound.bytes)
      let end = min(bytes.upperBound, extent.sectors.upperBound.bytes)
      guard start < end else { continue }
      let flags: AllocationFlags = extent.status == .zero ? [.hole, .zero] : []
      if let last = result.last, last.flags == flags {
        result[result.count - 1].length += UInt32(end - start)
      } else {
        result.append((UInt32(end - start), flags))
      }
    }
    guard !result.isEmpty else { return [(UInt32(bytes.count), [])] }
    return result
  }
}
