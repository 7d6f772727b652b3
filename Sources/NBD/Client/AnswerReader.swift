import BlockIO
import NIOCore

/// Reads what a server answers on one connection, and checks all of it: that it was asked for,
/// fits, and is whole. Data go straight from what came to the memory of the request, or are received
/// there by the caller. Pure, but for that memory.
struct AnswerReader {
  /// A request that isn't answered yet, and what has come of it.
  private struct Open {
    let request: ClientRequest
    var parts = ReceivedParts()
    var failure: RequestFailure?
    /// Up to which byte of a read all may be well, as far as errors say.
    var goodBytes: Int
    var extents: [BlockExtent]?

    init(_ request: ClientRequest) {
      self.request = request
      goodBytes = request.payload
    }
  }

  private enum State {
    case head
    /// A chunk's fixed part, then whatever its type makes of the rest.
    case body(ChunkType, Number, length: Int, isLast: Bool)
    case data(Number, at: Int, left: Int, isLast: Bool)
  }

  typealias Number = RequestLedger.Number

  private let export: ExportInfo
  /// Data of that many bytes are worth a call of the system to receive them in their place.
  private let bulk: Int
  private var open: [Number: Open] = [:]
  private var state = State.head
  /// The begun head or body.
  private var begun = ByteBuffer()
  /// Bytes of all reads that aren't answered yet.
  private var openBytes = 0

  /// Chunks that aren't data are collected; the longest: 128 Ki extents.
  private static let longestBody = 1 << 20 + 4
  init(_ export: ExportInfo, bulk: Int = 16 << 10) {
    self.export = export
    self.bulk = bulk
  }

  /// Bytes that wait for what belongs to them.
  var pendingBytes: Int { begun.readableBytes }

  /// A request has been sent.
  mutating func expect(_ number: Number, _ request: ClientRequest) {
    open[number] = Open(request)
    if case .read = request.operation { openBytes += request.payload }
  }

  /// Whether most of what comes next will be long data.
  var expectsBulk: Bool {
    if case .data(_, _, let left, _) = state, left >= bulk { return true }
    return openBytes > bulk * open.count
  }

  /// Where the next bytes belong, if they are data and worth it: to the last of them, too, when more
  /// like them are to come.
  var awaited: (memory: IOBuffer, range: Range<Int>)? {
    guard expectsBulk, case .data(let number, let place, let left, _) = state,
      case .read(let memory)? = open[number]?.request.operation
    else { return nil }
    return (memory, place..<place + left)
  }

  /// So many bytes of what is awaited have been put there, at least one.
  mutating func placed(
    _ count: Int, finish: (Number, ClientAnswer) -> Void
  ) throws(LineFailure) {
    guard case .data(let number, let place, let left, let isLast) = state, count <= left else {
      preconditionFailure("data that aren't awaited")
    }
    guard count == left else {
      state = .data(number, at: place + count, left: left - count, isLast: isLast)
      return
    }
    state = .head
    if isLast { try close(number, finish) }
  }

  /// Takes what has come, to its end, and calls `finish` with every request that is over.
  mutating func take(
    _ bytes: ByteBuffer, finish: (Number, ClientAnswer) -> Void
  ) throws(LineFailure) {
    var input = bytes
    while try step(&input, finish) {}
  }

  /// - Returns: false when more has to come first.
  private mutating func step(
    _ input: inout ByteBuffer, _ finish: (Number, ClientAnswer) -> Void
  ) throws(LineFailure) -> Bool {
    switch state {
    case .head:
      guard let head = try head(&input) else { return false }
      try take(head, finish)
    case .body(let type, let number, let length, let isLast):
      let count = type == .offsetData ? 8 : length
      guard gather(count, &input) else { return false }
      let body = begun
      begun.clear()
      state = .head
      if type == .offsetData {
        try beginData(body, number, length - 8, isLast)
      } else {
        try takeBody(type, body, number)
        if isLast { try close(number, finish) }
      }
    case .data(let number, let place, let left, _):
      guard input.readableBytes > 0 || left == 0 else { return false }
      let count = min(left, input.readableBytes)
      if case .read(let buffer)? = open[number]?.request.operation {
        buffer.store(input.readableBytesSpan.extracting(first: count), at: place)
      }
      input.moveReaderIndex(forwardBy: count)
      try placed(count, finish: finish)
    }
    return true
  }

  /// Collects so many bytes in `begun`.
  private mutating func gather(_ count: Int, _ input: inout ByteBuffer) -> Bool {
    let missing = count - begun.readableBytes
    if missing > 0, var more = input.readSlice(length: min(missing, input.readableBytes)) {
      begun.writeBuffer(&more)
    }
    return begun.readableBytes >= count
  }

  // MARK: Heads

  private mutating func head(_ input: inout ByteBuffer) throws(LineFailure) -> ReplyHeader? {
    guard gather(4, &input) else { return nil }
    guard let magic = begun.getInteger(at: begun.readerIndex, as: UInt32.self),
      let size = ReplyHeader.size(magic: magic)
    else { throw .lie("something that is no answer") }
    guard gather(size, &input) else { return nil }
    defer { begun.clear() }
    return ReplyHeader(&begun)
  }

  private mutating func take(
    _ head: ReplyHeader, _ finish: (Number, ClientAnswer) -> Void
  ) throws(LineFailure) {
    switch head {
    case .simple(let error, let number):
      let asked = try asked(number)
      if error != .none {
        open[number]?.failure = RequestFailure(error: error)
        open[number]?.goodBytes = 0
      }
      if case .read = asked.operation {
        if export.isStructured { throw .lie("a simple reply to a read") }
        if error == .none {
          _ = open[number]?.parts.add(0..<asked.payload)
          state = .data(number, at: 0, left: asked.payload, isLast: true)
          return
        }
      } else if case .blockStatus = asked.operation, error == .none {
        throw .lie("a simple reply to a question for extents")
      }
      try close(number, finish)
    case .chunk(let type, let flags, let number, let length):
      guard export.isStructured else { throw .lie("a structured reply that wasn't agreed on") }
      let asked = try asked(number)
      try check(type, flags, Int(length), asked)
      state = .body(type, number, length: Int(length), isLast: flags.contains(.done))
    }
  }

  private func asked(_ number: Number) throws(LineFailure) -> ClientRequest {
    guard let request = open[number]?.request else {
      throw .lie("an answer with a cookie (\(number)) that no request has")
    }
    return request
  }

  private func check(
    _ type: ChunkType, _ flags: ChunkFlags, _ length: Int, _ asked: ClientRequest
  ) throws(LineFailure) {
    var isFitting = false
    switch (type, asked.operation) {
    case (.none, _): isFitting = length == 0 && flags.contains(.done)
    case (.offsetData, .read): isFitting = length > 8 && length - 8 <= asked.payload
    case (.offsetHole, .read): isFitting = length == 12
    case (.blockStatus, .blockStatus):
      isFitting = length >= 12 && length % 8 == 4 && length <= Self.longestBody
    case (.error, _): isFitting = (6...WireLimits.name + 6).contains(length)
    case (.errorOffset, _): isFitting = (14...WireLimits.name + 14).contains(length)
    default:
      // An error of an unknown kind begins like all errors do.
      isFitting = type.isError && (6...Self.longestBody).contains(length)
    }
    guard isFitting else {
      throw .lie("a piece of type \(type.rawValue) and \(length) bytes that doesn't fit")
    }
  }

  // MARK: Bodies

  private mutating func beginData(
    _ body: ByteBuffer, _ number: Number, _ length: Int, _ isLast: Bool
  ) throws(LineFailure) {
    let place = try place(body, number, length)
    state = .data(number, at: place, left: length, isLast: isLast)
  }

  /// Where in the memory of a read these bytes go; each may come once.
  private mutating func place(
    _ body: ByteBuffer, _ number: Number, _ length: Int
  ) throws(LineFailure) -> Int {
    let asked = try asked(number).bytes
    guard let offset: UInt64 = body.getInteger(at: body.readerIndex), offset >= asked.lowerBound,
      offset <= asked.upperBound, UInt64(length) <= asked.upperBound - offset
    else { throw .lie("data that weren't asked for") }
    let place = Int(offset - asked.lowerBound)
    guard open[number]?.parts.add(place..<place + length) == true else {
      throw .lie("data that had come already")
    }
    return place
  }

  private mutating func takeBody(
    _ type: ChunkType, _ body: ByteBuffer, _ number: Number
  ) throws(LineFailure) {
    switch type {
    case .none: break
    case .offsetHole: try takeHole(body, number)
    case .blockStatus: try takeExtents(body, number)
    default: try takeError(type, body, number)
    }
  }

  private mutating func takeHole(_ body: ByteBuffer, _ number: Number) throws(LineFailure) {
    let length = Int(body.getInteger(at: body.readerIndex + 8, as: UInt32.self) ?? 0)
    guard length > 0 else { throw .lie("an empty hole") }
    let place = try place(body, number, length)
    if case .read(let buffer)? = open[number]?.request.operation {
      buffer.clear(place..<place + length)
    }
  }

  private mutating func takeExtents(_ body: ByteBuffer, _ number: Number) throws(LineFailure) {
    var body = body
    guard body.readInteger(as: UInt32.self) == export.allocation else {
      throw .lie("extents of another kind")
    }
    guard open[number]?.extents == nil,
      case .blockStatus(let sectors, let limit)? = open[number]?.request.operation
    else { throw .lie("extents twice") }
    var extents = SectorExtents(sectors, byteCount: export.byteCount, limit: limit)
    while let (length, bits) = body.readMultipleIntegers(as: (UInt32, UInt32).self) {
      guard length > 0 else { throw .lie("an empty extent") }
      extents.add(UInt64(length), isZero: AllocationFlags(rawValue: bits).contains(.zero))
    }
    open[number]?.extents = extents.finished()
  }

  private mutating func takeError(
    _ type: ChunkType, _ body: ByteBuffer, _ number: Number
  ) throws(LineFailure) {
    var body = body
    guard let (code, count) = body.readMultipleIntegers(as: (UInt32, UInt16).self), code != 0,
      let message = body.readSlice(length: Int(count))
    else { throw .lie("an error without a reason") }
    let asked = try asked(number)
    var good = 0
    if type == .errorOffset {
      guard let offset: UInt64 = body.readInteger(), asked.bytes.contains(offset) else {
        throw .lie("an error of a place that wasn't asked for")
      }
      good = Int(offset - asked.bytes.lowerBound)
    }
    let words = ClientHandshake.words(message)
    guard var entry = open[number] else { return }
    entry.goodBytes = min(entry.goodBytes, good)
    if entry.failure == nil {
      let error = WireError(rawValue: code)
      entry.failure = RequestFailure(
        error: error, detail: words.isEmpty ? nil : "\(error.errno)\(words)")
    }
    open[number] = entry
  }

  // MARK: Ends

  /// The answer is whole, as the server has it.
  private mutating func close(
    _ number: Number, _ finish: (Number, ClientAnswer) -> Void
  ) throws(LineFailure) {
    guard let entry = open.removeValue(forKey: number) else { return }
    if case .read = entry.request.operation { openBytes -= entry.request.payload }
    if var failure = entry.failure {
      failure.readBytes = min(entry.goodBytes, entry.parts.prefix)
      return finish(number, .failed(failure))
    }
    switch entry.request.operation {
    case .read:
      guard entry.parts.prefix == entry.request.payload else {
        throw .lie("the end of a read of which data are missing")
      }
      finish(number, .done)
    case .blockStatus:
      guard let extents = entry.extents, !extents.isEmpty else {
        throw .lie("an answer without extents")
      }
      finish(number, .extents(extents))
    case .write, .writeZeroes, .trim, .flush: finish(number, .done)
    }
  }
}
