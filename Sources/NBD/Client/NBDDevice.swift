public import BlockIO
public import NIOCore
import NIOPosix
import SystemPackage

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// An export of an NBD server as a block device.
///
/// Requests that the server can't take as they are – too long, or not in its blocks – are cut, and
/// begun blocks are read, changed and written. A connection that is lost is made again, and what
/// wasn't answered is sent again; see ``RequestLedger`` for what that means for a flush. After the
/// time limit of the options every request fails.
public final class NBDDevice: BlockDevice {
  public let name: String
  public let identity: DeviceIdentity
  public let limits: DeviceLimits
  public let byteCount: UInt64
  /// What the server offers, in words: for people.
  public let features: [String]

  private let export: ExportInfo
  private let layout: ExportLayout
  private let session: NIOLoopBound<ClientSession>
  private let eventLoop: any EventLoop
  /// nil: the server takes any sector.
  private let turns: BlockTurns?

  /// Where connections live unless the caller has a loop for them: both ends of a copy have one.
  private static let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)

  /// Connects to an export.
  ///
  /// - Parameters:
  ///   - uri: where it is.
  ///   - options: how it is used.
  ///   - eventLoop: where its connections live; by default one of two threads that all devices
  ///     share. Requests made on the very thread of that loop need no hand-over.
  /// - Throws: the reason in one line: no server there, no such export, TLS wanted or missing, read
  ///   only though it is to be written …
  public static func open(
    _ uri: NBDURI, _ options: NBDClientOptions = NBDClientOptions(),
    on eventLoop: (any EventLoop)? = nil
  ) async throws(IOFailure) -> NBDDevice {
    let eventLoop = eventLoop ?? group.next()
    let opened: Result<(NIOLoopBound<ClientSession>, ExportInfo), LineFailure> =
      await withUnsafeContinuation { continuation in
        eventLoop.execute {
          do throws(LineFailure) {
            let session = try ClientSession(uri, options, on: eventLoop)
            let bound = NIOLoopBound(session, eventLoop: eventLoop)
            session.open { result in continuation.resume(returning: result.map { (bound, $0) }) }
          } catch {
            continuation.resume(returning: .failure(error))
          }
        }
      }
    switch opened {
    case .failure(let reason):
      throw IOFailure(.open, uri.description, errno: .ioError, detail: reason.description)
    case .success(let (session, export)):
      let device = NBDDevice(uri, export, session, eventLoop)
      if options.isWritable, export.flags.contains(.readOnly) {
        throw IOFailure(
          .open, uri.description, errno: .readOnlyFileSystem, detail: "the export is read-only")
      }
      return device
    }
  }

  private init(
    _ uri: NBDURI, _ export: ExportInfo, _ session: NIOLoopBound<ClientSession>,
    _ eventLoop: any EventLoop
  ) {
    name = uri.description
    identity = .network(server: Self.place(of: uri.server), export: uri.export)
    byteCount = export.byteCount
    self.export = export
    layout = export.layout
    self.session = session
    self.eventLoop = eventLoop
    turns = export.minimumBlock > Sector.byteCount ? BlockTurns() : nil
    var limits = DeviceLimits()
    limits.logicalBlock = Int(max(Sector.byteCount, export.minimumBlock))
    limits.physicalBlock = Int(max(Sector.byteCount, min(export.preferredBlock, 65536)))
    limits.maximumTransfer = Int(export.maximum)
    limits.optimalTransfer = Int(min(1 << 20, export.maximum))
    limits.isReadOnly = export.flags.contains(.readOnly)
    limits.supportsFUA = export.flags.contains(.sendFUA)
    limits.supportsWriteZeroes = export.flags.contains(.sendWriteZeroes)
    limits.supportsDiscard = export.flags.contains(.sendTrim)
    self.limits = limits
    features = Self.features(of: export, tls: uri.isTLS)
  }

  // No request is under way: whoever waits for one holds the device.
  deinit {
    let session = session
    eventLoop.execute { session.value.close() }
  }

  public var sectorCount: Sector { Sector(holding: byteCount) }

  private static func features(of export: ExportInfo, tls: Bool) -> [String] {
    [
      (tls, "TLS"), (export.isStructured, "structured replies"),
      (export.allocation != nil, "block status"),
      (export.flags.contains(.canMultiConn), "several connections"),
      (export.flags.contains(.sendFlush), "flush"), (export.flags.contains(.sendFUA), "FUA"),
      (export.flags.contains(.sendTrim), "trim"),
      (export.flags.contains(.sendWriteZeroes), "write zeroes"),
    ].compactMap { $0 ? $1 : nil }
  }

  /// The same for every way to write the same place, as far as that can be seen from here.
  private static func place(of server: NBDURI.Server) -> String {
    switch server {
    case .tcp(let host, let port):
      let name = host.lowercased()
      let isLocal = name == "::1" || name.hasPrefix("127.")
      return "\(isLocal ? "localhost" : name):\(port)"
    case .unix(let path):
      guard let real = realpath(path, nil) else { return path }
      defer { free(real) }
      return String(cString: real)
    }
  }

  // MARK: Transfers

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    precondition(buffer.sectorCount == sectors.length)
    try check(sectors, for: .read)
    var rest = layout.bytes(of: sectors)
    // What is behind the end of the export reads as zeros.
    buffer.clear(rest.count..<buffer.byteCount)
    while !rest.isEmpty {
      let piece = layout.firstPiece(of: rest, longest: layout.maximum)
      let target = part(of: buffer, piece.bytes, from: sectors.lowerBound)
      let readable: (Int) -> Range<Sector> = { count in
        Sector((piece.bytes.lowerBound + UInt64(count)) / Sector.byteCount)..<sectors.upperBound
      }
      switch piece {
      case .whole(let bytes):
        try await perform(.init(operation: .read(target), bytes: bytes), .read, readable)
      case .part(let bytes, let block):
        let pages = try PagePool.lend(holding: Sector(holding: UInt64(block.count)))
        try await perform(
          .init(operation: .read(pages.buffer), bytes: block), .read, { _ in readable(0) })
        target.copy(from: part(of: pages.buffer, bytes, from: first(of: block)))
      }
      rest = piece.bytes.upperBound..<rest.upperBound
    }
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    precondition(buffer.sectorCount == sectors.length)
    try checkChange(sectors, for: .write)
    let bytes = layout.bytes(of: sectors)
    try await inTurn(bytes) { () throws(IOFailure) in
      try await write(bytes, of: sectors, from: buffer, options)
    }
    if options.contains(.durable), !limits.supportsFUA { try await flush() }
  }

  private func write(
    _ bytes: Range<UInt64>, of sectors: Range<Sector>, from buffer: IOBuffer,
    _ options: WriteOptions
  ) async throws(IOFailure) {
    let durable = isDurableAtOnce(options)
    var rest = bytes
    while !rest.isEmpty {
      let piece = layout.firstPiece(of: rest, longest: layout.maximum)
      let source = part(of: buffer, piece.bytes, from: sectors.lowerBound)
      let unwritten = first(of: piece.bytes)..<sectors.upperBound
      switch piece {
      case .whole(let bytes):
        try await perform(
          .init(operation: .write(source, durable: durable), bytes: bytes), .write,
          { _ in unwritten })
      case .part(let bytes, let block):
        let pages = try PagePool.lend(holding: Sector(holding: UInt64(block.count)))
        try await perform(
          .init(operation: .read(pages.buffer), bytes: block), .write, { _ in unwritten })
        part(of: pages.buffer, bytes, from: first(of: block)).copy(from: source)
        try await perform(
          .init(operation: .write(pages.buffer, durable: durable), bytes: block), .write,
          { _ in unwritten })
      }
      rest = piece.bytes.upperBound..<rest.upperBound
    }
  }

  /// Without a flush of the server's every write has to be durable by itself.
  private func isDurableAtOnce(_ options: WriteOptions) -> Bool {
    limits.supportsFUA && (options.contains(.durable) || !export.flags.contains(.sendFlush))
  }

  // MARK: Other requests

  public func flush() async throws(IOFailure) {
    if limits.isReadOnly { return }
    guard export.flags.contains(.sendFlush) else {
      if limits.supportsFUA { return }
      throw IOFailure(
        .flush, name, errno: .notSupported,
        detail: "the server can't be told to flush: whether what was written is durable is not"
          + " known")
    }
    try await perform(.init(operation: .flush, bytes: 0..<0), .flush, nil)
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try checkChange(sectors, for: .writeZeroes)
    guard limits.supportsWriteZeroes else { return try await writeZeroesFromMemory(sectors) }
    let bytes = layout.bytes(of: sectors)
    let operation = ClientRequest.Operation.writeZeroes(
      mayUnmap: mayUnmap, durable: isDurableAtOnce([]))
    let whole = layout.wholeBlocks(in: bytes)
    do throws(IOFailure) {
      try await change(whole, operation, .writeZeroes)
    } catch  where error.errno == .notSupported {
      return try await writeZeroesFromMemory(sectors)
    }
    for rest in [bytes.lowerBound..<whole.lowerBound, whole.upperBound..<bytes.upperBound]
    where !rest.isEmpty {
      try await writeZeroesFromMemory(first(of: rest)..<Sector(holding: rest.upperBound))
    }
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try checkChange(sectors, for: .discard)
    guard limits.supportsDiscard else {
      throw IOFailure(.discard, name, sectors, errno: .notSupported)
    }
    // Begun blocks are kept: what they hold afterwards is the device's choice.
    try await change(layout.wholeBlocks(in: layout.bytes(of: sectors)), .trim, .discard)
  }

  /// Does something to whole blocks that needs no data.
  private func change(
    _ blocks: Range<UInt64>, _ operation: ClientRequest.Operation, _ what: IOFailure.Operation
  ) async throws(IOFailure) {
    try await inTurn(blocks) { () throws(IOFailure) in
      var rest = blocks
      while !rest.isEmpty {
        let bytes = layout.firstPiece(of: rest, longest: ExportLayout.longestWithoutData).bytes
        let left = first(of: bytes)..<Sector(holding: blocks.upperBound)
        try await perform(.init(operation: operation, bytes: bytes), what, { _ in left })
        rest = bytes.upperBound..<rest.upperBound
      }
    }
  }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try check(sectors, for: .blockStatus)
    guard !sectors.isEmpty, limit > 0 else { return [] }
    guard export.allocation != nil else { return [BlockExtent(sectors, .unknown)] }
    // Within what a length of 32 bits takes, in whole blocks.
    let asked =
      sectors
      .lowerBound..<min(
        sectors.upperBound, sectors.lowerBound + Sector(1 << 21))
    let wide = layout.sectorsOfBlocks(around: layout.bytes(of: asked))
    let answer = try await perform(
      .init(operation: .blockStatus(wide, limit: limit + 1), bytes: layout.bytes(of: wide)),
      .blockStatus, { _ in sectors })
    guard case .extents(let extents) = answer else { return [BlockExtent(asked, .unknown)] }
    let clamped = extents.compactMap { extent -> BlockExtent? in
      let part = extent.sectors.clamped(to: asked)
      return part.isEmpty ? nil : BlockExtent(part, extent.status)
    }
    // A server may say less than a sector's worth before the first one that was asked for.
    guard clamped.first?.sectors.lowerBound == asked.lowerBound else {
      return [BlockExtent(asked.lowerBound..<asked.lowerBound + 1, .data)]
    }
    return Array(clamped.prefix(limit))
  }

  // MARK: Helpers

  private func checkChange(
    _ sectors: Range<Sector>, for operation: IOFailure.Operation
  ) throws(IOFailure) {
    try check(sectors, for: operation)
    if limits.isReadOnly {
      throw IOFailure(
        operation, name, sectors, errno: .readOnlyFileSystem, detail: "the export is read-only")
    }
  }

  private func first(of bytes: Range<UInt64>) -> Sector {
    Sector(bytes.lowerBound / Sector.byteCount)
  }

  /// Pieces begin at whole sectors: requests do, and blocks of less than a sector are never begun.
  private func part(of buffer: IOBuffer, _ bytes: Range<UInt64>, from start: Sector) -> IOBuffer {
    buffer.slice(first(of: bytes) - start, Sector(holding: UInt64(bytes.count)))
  }

  private func inTurn(
    _ bytes: Range<UInt64>, _ body: () async throws(IOFailure) -> Void
  ) async throws(IOFailure) {
    guard let turns, !bytes.isEmpty else { return try await body() }
    let turn = await turns.enter(
      layout.sectorsOfBlocks(around: bytes), alone: layout.wholeBlocks(in: bytes) != bytes)
    defer { turns.leave(turn) }
    try await body()
  }

  /// Sends a request and waits for its answer.
  ///
  /// - Parameter failed: the sectors that a failure concerns when so many bytes were read.
  @discardableResult
  private func perform(
    _ request: ClientRequest, _ operation: IOFailure.Operation,
    _ failed: ((Int) -> Range<Sector>)?
  ) async throws(IOFailure) -> ClientAnswer {
    let answer: ClientAnswer = await withUnsafeContinuation { completion in
      if eventLoop.inEventLoop {
        session.value.submit(request) { completion.resume(returning: $0) }
      } else {
        eventLoop.execute { [session] in
          session.value.submit(request) { completion.resume(returning: $0) }
        }
      }
    }
    guard case .failed(let failure) = answer else { return answer }
    throw IOFailure(
      operation, name, failed?(failure.readBytes), errno: failure.error.errno,
      detail: failure.detail)
  }
}
