import NIOCore

/// The way from the server's greeting to an export in use: fixed newstyle, TLS if asked for, and
/// of what the server offers everything that this client has a use for. Pure.
struct ClientHandshake {
  /// What is to be done about what came.
  enum Action: Hashable {
    case send(ByteBuffer)
    /// From here on everything is encrypted; then call ``tlsStarted()``.
    case startTLS
    case use(ExportInfo)
  }

  private enum Stage { case greeting, tls, structured, context, go, exportName, over }

  private let export: String
  private let wantsTLS: Bool
  private var stage = Stage.greeting
  private var input = ByteBuffer()
  private var info = ExportInfo(byteCount: 0, flags: [])
  private var hasExport = false
  private var hasZeroes = true

  private static let allocationContext = "base:allocation"

  init(export: String, tls: Bool) {
    self.export = export
    wantsTLS = tls
  }

  /// Bytes that wait for what belongs to them.
  var pendingBytes: Int { input.readableBytes }

  /// The server has sent something.
  mutating func receive(_ bytes: ByteBuffer) throws(LineFailure) -> [Action] {
    var bytes = bytes
    input.writeBuffer(&bytes)
    var actions: [Action] = []
    while let more = try step() { actions += more }
    input.discardReadBytes()
    // An answer is waited for before the next question: whatever is left over was put in between
    // by someone else, or belongs to a request that was never made.
    let isBetween = actions.contains(.startTLS) || stage == .over
    if isBetween, input.readableBytes > 0 { throw .lie("more than was asked for") }
    return actions
  }

  /// The connection is encrypted.
  mutating func tlsStarted() -> [Action] { [ask(.structuredReply, as: .structured)] }

  /// nil: more has to come first.
  private mutating func step() throws(LineFailure) -> [Action]? {
    switch stage {
    case .greeting: try greeting()
    case .exportName: try exportName()
    case .over: nil
    case .tls, .structured, .context, .go: try optionReply()
    }
  }

  // MARK: Greeting

  private mutating func greeting() throws(LineFailure) -> [Action]? {
    guard
      let (greeting, style) = input.getMultipleIntegers(
        at: input.readerIndex, as: (UInt64, UInt64).self)
    else { return nil }
    guard greeting == Magic.greeting else {
      throw LineFailure("this is no NBD server", isFinal: true)
    }
    guard style == Magic.newstyle else {
      throw LineFailure(
        style == Magic.oldstyle
          ? "the server speaks the oldstyle protocol, which is not supported"
          : "the server speaks an unknown kind of NBD", isFinal: true)
    }
    guard input.readableBytes >= 18 else { return nil }
    input.moveReaderIndex(forwardBy: 16)
    let flags = HandshakeFlags(rawValue: input.readInteger() ?? 0)
    hasZeroes = !flags.contains(.noZeroes)
    var answer = ByteBuffer()
    answer.writeInteger(UInt32(flags.intersection([.fixedNewstyle, .noZeroes]).rawValue))
    let first = Action.send(answer)
    guard flags.contains(.fixedNewstyle) else {
      if wantsTLS { throw LineFailure("the server has no TLS", isFinal: true) }
      return [first, askByName()]
    }
    return [first, wantsTLS ? ask(.startTLS, as: .tls) : ask(.structuredReply, as: .structured)]
  }

  // MARK: Questions

  private mutating func ask(
    _ option: OptionType, as stage: Stage, _ data: ByteBuffer = ByteBuffer()
  ) -> Action {
    self.stage = stage
    var question = ByteBuffer()
    OptionHeader(option, length: UInt32(data.readableBytes)).write(to: &question)
    question.writeImmutableBuffer(data)
    return .send(question)
  }

  private mutating func askForContext() -> Action {
    var data = ByteBuffer()
    Self.write(export, to: &data)
    data.writeInteger(UInt32(1))
    Self.write(Self.allocationContext, to: &data)
    return ask(.setMetaContext, as: .context, data)
  }

  private mutating func askToGo() -> Action {
    var data = ByteBuffer()
    Self.write(export, to: &data)
    data.writeMultipleIntegers(UInt16(1), InfoType.blockSize.rawValue)
    return ask(.go, as: .go, data)
  }

  /// The older way, in which a server can only hang up to say no.
  private mutating func askByName() -> Action {
    ask(.exportName, as: .exportName, ByteBuffer(string: export))
  }

  private static func write(_ name: String, to buffer: inout ByteBuffer) {
    buffer.writeInteger(UInt32(name.utf8.count))
    buffer.writeString(name)
  }

  // MARK: Answers

  private mutating func optionReply() throws(LineFailure) -> [Action]? {
    guard input.readableBytes >= OptionReplyHeader.size else { return nil }
    var rest = input
    guard let header = OptionReplyHeader(&rest) else {
      throw .lie("not an answer to an option")
    }
    guard header.length <= WireLimits.optionReply else {
      throw .lie("an answer of \(header.length) bytes to an option")
    }
    guard let data = rest.readSlice(length: Int(header.length)) else { return nil }
    input = rest
    guard header.option == asked else { throw .lie("an answer to what wasn't asked") }
    switch stage {
    case .tls: return try tls(header.type, data)
    case .structured: return structured(header.type)
    case .context: return try context(header.type, data)
    default: return try go(header.type, data)
    }
  }

  private var asked: OptionType {
    switch stage {
    case .tls: .startTLS
    case .structured: .structuredReply
    case .context: .setMetaContext
    default: .go
    }
  }

  private func tls(_ type: OptionReplyType, _ data: ByteBuffer) throws(LineFailure) -> [Action] {
    if type == .ack { return [.startTLS] }
    throw LineFailure("the server refuses TLS\(Self.words(data))", isFinal: true)
  }

  private mutating func structured(_ type: OptionReplyType) -> [Action] {
    info.isStructured = type == .ack
    // Whatever else the reason may be: that of GO is the one that people can act on.
    return [info.isStructured ? askForContext() : askToGo()]
  }

  private mutating func context(
    _ type: OptionReplyType, _ data: ByteBuffer
  ) throws(LineFailure) -> [Action] {
    guard type == .metaContext else { return [askToGo()] }
    var data = data
    guard let number: UInt32 = data.readInteger() else { throw .lie("a context without a number") }
    // Its name starts with what was asked for; another one was not.
    guard data.readString(length: data.readableBytes) == Self.allocationContext else {
      throw .lie("a context that wasn't asked for")
    }
    info.allocation = number
    return []
  }

  private mutating func go(
    _ type: OptionReplyType, _ data: ByteBuffer
  ) throws(LineFailure) -> [Action] {
    switch type {
    case .info:
      try take(data)
      return []
    case .ack:
      guard hasExport else { throw .lie("an export without a size") }
      return [.use(try checked())]
    case .unsupported: return [askByName()]
    default: throw refusal(type, data)
    }
  }

  private func refusal(_ type: OptionReplyType, _ data: ByteBuffer) -> LineFailure {
    let reason =
      switch type {
      case .unknown: "the server has no export '\(export)'"
      case .tlsRequired:
        wantsTLS ? "the server wants TLS again" : "the server requires TLS: use nbds"
      case .shutdown: "the server is shutting down"
      case .policy: "the server doesn't allow it"
      default: "the server refuses the export '\(export)'"
      }
    return LineFailure(reason + Self.words(data))
  }

  /// What a server says in words: one line of printable characters, not too long.
  static func words(_ data: ByteBuffer) -> String {
    let text = String(decoding: data.readableBytesView.prefix(200), as: UTF8.self)
    let line = text.unicodeScalars.map {
      $0.properties.generalCategory == .control ? " " : String($0)
    }.joined()
    return line.allSatisfy(\.isWhitespace) ? "" : " (\(line))"
  }

  private mutating func take(_ data: ByteBuffer) throws(LineFailure) {
    var data = data
    guard let type = data.readInteger(as: UInt16.self).map(InfoType.init(rawValue:)) else {
      throw .lie("information without a type")
    }
    switch type {
    case .export:
      guard let (size, flags) = data.readMultipleIntegers(as: (UInt64, UInt16).self) else {
        throw .lie("an export without a size")
      }
      setExport(size, flags)
    case .blockSize:
      guard
        let (minimum, preferred, maximum) = data.readMultipleIntegers(
          as: (UInt32, UInt32, UInt32).self)
      else { throw .lie("block sizes without numbers") }
      guard minimum.nonzeroBitCount == 1, minimum <= 65536, preferred >= minimum,
        maximum >= minimum
      else { throw .lie("block sizes of \(minimum), \(preferred) and \(maximum) bytes") }
      info.minimumBlock = UInt64(minimum)
      info.preferredBlock = UInt64(preferred)
      // Within a 32-bit length, in whole blocks, and no larger than needs be.
      let most = min(UInt64(maximum), WireLimits.defaultMaximum)
      info.maximum = most - most % info.minimumBlock
    default: break
    }
  }

  private mutating func setExport(_ size: UInt64, _ flags: UInt16) {
    info.byteCount = size
    info.flags = TransmissionFlags(rawValue: flags)
    hasExport = true
  }

  private mutating func exportName() throws(LineFailure) -> [Action]? {
    let size = 10 + (hasZeroes ? 124 : 0)
    guard input.readableBytes >= size,
      let (bytes, flags) = input.readMultipleIntegers(as: (UInt64, UInt16).self)
    else { return nil }
    input.moveReaderIndex(forwardBy: size - 10)
    setExport(bytes, flags)
    return [.use(try checked())]
  }

  private mutating func checked() throws(LineFailure) -> ExportInfo {
    stage = .over
    guard info.byteCount <= UInt64(Int64.max) else {
      throw .lie("an export of \(info.byteCount) bytes")
    }
    if !info.flags.contains(.hasFlags) { info.flags = [] }
    return info
  }
}
