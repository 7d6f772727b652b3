import NIOCore

/// What a server tells a client about an export before it is chosen.
struct OfferedExport: Hashable, Sendable {
  var byteCount: UInt64
  var flags: TransmissionFlags
  var description: String
  var minimumBlock: UInt32
  var preferredBlock: UInt32
  var maximumBlock: UInt32
}

/// What was agreed on.
struct Agreement: Hashable, Sendable {
  var export = ""
  var isStructured = false
  /// Whether `base:allocation` was chosen for that export.
  var hasAllocation = false
}

/// The server's side of the handshake: what a client says in, what is to be done out. Pure.
struct ServerNegotiation {
  /// What is to be done, in this order.
  enum Action: Equatable {
    case send(ByteBuffer)
    /// What was sent goes out in plain, all that follows by TLS.
    case startTLS
    /// The handshake is over.
    case transmit(Agreement)
    /// No way to go on; nil: the client wanted it so.
    case close(reason: String?)
  }

  /// The exports by name.
  struct Catalogue {
    var exports: [String: OfferedExport]

    var names: [String] { exports.keys.sorted() }

    /// The export of a name; the empty name stands for the only one, if there is just one.
    func find(_ name: String) -> OfferedExport? {
      exports[name] ?? (name.isEmpty && exports.count == 1 ? exports.values.first : nil)
    }
  }

  /// The number of `base:allocation` in this server's answers.
  static let allocationContext: UInt32 = 1
  private static let allocationName = "base:allocation"
  /// Options of one handshake: enough for every client, and an end for those that never choose.
  private static let maximumOptions = 1000
  /// How many bytes of names are sent before no list is sent any more.
  private static let maximumListed = 16 << 20
  private var listed = 0
  private static let longestOption = 1 << 16

  private enum Stage {
    case flags, options, over
  }

  private var stage = Stage.flags
  private let offersTLS: Bool
  private let requiresTLS: Bool
  private(set) var isSecure = false
  private var wantsZeroes = true
  private var optionCount = 0
  private var agreement = Agreement()
  /// The export that ``Agreement/hasAllocation`` was chosen for.
  private var contextExport: String?
  private var input = ByteBuffer()

  init(offersTLS: Bool, requiresTLS: Bool) {
    self.offersTLS = offersTLS
    self.requiresTLS = requiresTLS
  }

  /// What the server says first.
  static var greeting: ByteBuffer {
    var buffer = ByteBuffer()
    let flags: HandshakeFlags = [.fixedNewstyle, .noZeroes]
    buffer.writeMultipleIntegers(Magic.greeting, Magic.newstyle, flags.rawValue)
    return buffer
  }

  /// The other end is who it says it is, and nobody else hears.
  mutating func becameSecure() { isSecure = true }

  /// Bytes that wait for what belongs to them.
  var pendingBytes: Int { input.readableBytes }

  /// What came behind the handshake: the first requests.
  mutating func takeRest() -> ByteBuffer {
    defer { input.clear() }
    return input
  }

  /// Takes what a client said.
  mutating func receive(_ bytes: ByteBuffer, _ catalogue: Catalogue) -> [Action] {
    var bytes = bytes
    input.writeBuffer(&bytes)
    var actions: [Action] = []
    while stage != .over, let next = step(catalogue) {
      actions += next
      if next.contains(.startTLS) {
        // What follows in plain was put in by someone in between: the client has to wait.
        if input.readableBytes > 0 {
          stage = .over
          return [.close(reason: "data in plain behind the change to TLS")]
        }
        break
      }
    }
    input.discardReadBytes()
    return actions
  }

  private mutating func step(_ catalogue: Catalogue) -> [Action]? {
    switch stage {
    case .over: return nil
    case .flags:
      guard let flags = input.readInteger(as: UInt32.self) else { return nil }
      let known = UInt32(HandshakeFlags([.fixedNewstyle, .noZeroes]).rawValue)
      guard flags & ~known == 0 else { return close("unknown handshake flags") }
      wantsZeroes = flags & UInt32(HandshakeFlags.noZeroes.rawValue) == 0
      stage = .options
      return []
    case .options:
      guard input.readableBytes >= OptionHeader.size else { return nil }
      var peek = input
      guard let header = OptionHeader(&peek) else { return close("something that is no option") }
      guard header.length <= Self.longestOption else {
        return close("an option of \(header.length) bytes")
      }
      guard let data = peek.readSlice(length: Int(header.length)) else { return nil }
      input = peek
      optionCount += 1
      guard optionCount <= Self.maximumOptions else { return close("options without an end") }
      return answer(header.option, data, catalogue)
    }
  }

  private mutating func close(_ reason: String?) -> [Action] {
    stage = .over
    return [.close(reason: reason)]
  }

  private mutating func answer(
    _ option: OptionType, _ data: ByteBuffer, _ catalogue: Catalogue
  ) -> [Action] {
    if requiresTLS, !isSecure, option != .startTLS, option != .abort {
      guard option != .exportName else { return close("an export without TLS") }
      return [refuse(option, .tlsRequired, "TLS is required")]
    }
    switch option {
    case .exportName: return useByName(data, catalogue)
    case .abort:
      let ack = reply(option, .ack)
      return [ack] + close(nil)
    case .list: return list(data, catalogue)
    case .startTLS: return startTLS(data)
    case .info, .go: return describe(option, data, catalogue)
    case .structuredReply:
      guard data.readableBytes == 0 else { return [refuse(option, .invalid, "data behind it")] }
      agreement.isStructured = true
      return [reply(option, .ack)]
    case .listMetaContext, .setMetaContext: return chooseContexts(option, data, catalogue)
    default: return [refuse(option, .unsupported, "unknown option")]
    }
  }

  // MARK: Options

  private mutating func useByName(_ data: ByteBuffer, _ catalogue: Catalogue) -> [Action] {
    let name = String(buffer: data)
    guard name.utf8.count <= WireLimits.name, let export = catalogue.find(name) else {
      // This option knows no other way to say no.
      return close("an export that isn't there: '\(name.prefix(100))'")
    }
    var buffer = ByteBuffer()
    buffer.writeMultipleIntegers(export.byteCount, export.flags.rawValue)
    if wantsZeroes { buffer.writeRepeatingByte(0, count: 124) }
    return [.send(buffer), transmit(name)]
  }

  private mutating func transmit(_ name: String) -> Action {
    stage = .over
    agreement.export = name
    if contextExport != name { agreement.hasAllocation = false }
    return .transmit(agreement)
  }

  private mutating func list(_ data: ByteBuffer, _ catalogue: Catalogue) -> [Action] {
    guard data.readableBytes == 0 else { return [refuse(.list, .invalid, "data behind it")] }
    guard listed < Self.maximumListed else { return close("lists without an end") }
    listed += catalogue.names.reduce(0) { $0 + $1.utf8.count + OptionReplyHeader.size }
    let names = catalogue.names.map { name in
      var body = ByteBuffer()
      body.writeInteger(UInt32(name.utf8.count))
      body.writeString(name)
      return reply(.list, .server, body)
    }
    return names + [reply(.list, .ack)]
  }

  private func startTLS(_ data: ByteBuffer) -> [Action] {
    guard data.readableBytes == 0 else { return [refuse(.startTLS, .invalid, "data behind it")] }
    guard !isSecure else { return [refuse(.startTLS, .invalid, "TLS is in use already")] }
    guard offersTLS else { return [refuse(.startTLS, .policy, "no TLS here")] }
    return [reply(.startTLS, .ack), .startTLS]
  }

  private mutating func describe(
    _ option: OptionType, _ data: ByteBuffer, _ catalogue: Catalogue
  ) -> [Action] {
    var data = data
    guard let name = Self.name(&data), let count = data.readInteger(as: UInt16.self),
      data.readableBytes == Int(count) * 2
    else { return [refuse(option, .invalid, "malformed")] }
    guard let export = catalogue.find(name) else {
      return [refuse(option, .unknown, "no export '\(name.prefix(100))'")]
    }
    var wanted = Set<InfoType>()
    while let type = data.readInteger(as: UInt16.self) { wanted.insert(InfoType(rawValue: type)) }
    var body = ByteBuffer()
    body.writeMultipleIntegers(
      InfoType.export.rawValue, export.byteCount, export.flags.rawValue)
    var answers = [reply(option, .info, body)]
    for (type, text) in [(InfoType.name, name), (.description, export.description)]
    where wanted.contains(type) && !(type == .description && text.isEmpty) {
      var body = ByteBuffer()
      body.writeInteger(type.rawValue)
      body.writeString(text)
      answers.append(reply(option, .info, body))
    }
    body.clear()
    body.writeMultipleIntegers(
      InfoType.blockSize.rawValue, export.minimumBlock, export.preferredBlock,
      export.maximumBlock)
    answers.append(reply(option, .info, body))
    answers.append(reply(option, .ack))
    return option == .go ? answers + [transmit(name)] : answers
  }

  private mutating func chooseContexts(
    _ option: OptionType, _ data: ByteBuffer, _ catalogue: Catalogue
  ) -> [Action] {
    var data = data
    guard agreement.isStructured else {
      return [refuse(option, .invalid, "structured replies come first")]
    }
    guard let name = Self.name(&data), let count = data.readInteger(as: UInt32.self),
      count <= 1024
    else { return [refuse(option, .invalid, "malformed")] }
    var queries: [String] = []
    for _ in 0..<count {
      guard let query = Self.name(&data) else { return [refuse(option, .invalid, "malformed")] }
      queries.append(query)
    }
    guard data.readableBytes == 0 else { return [refuse(option, .invalid, "malformed")] }
    guard catalogue.find(name) != nil else {
      return [refuse(option, .unknown, "no export '\(name.prefix(100))'")]
    }
    let isList = option == .listMetaContext
    let isWanted =
      (isList && (queries.isEmpty || queries.contains("base:")))
      || queries.contains(Self.allocationName)
    if !isList {
      agreement.hasAllocation = isWanted
      contextExport = name
    }
    guard isWanted else { return [reply(option, .ack)] }
    var body = ByteBuffer()
    body.writeInteger(isList ? 0 : Self.allocationContext)
    body.writeString(Self.allocationName)
    return [reply(option, .metaContext, body), reply(option, .ack)]
  }

  // MARK: Words

  /// A name with its length before it.
  private static func name(_ data: inout ByteBuffer) -> String? {
    guard let length = data.readInteger(as: UInt32.self), length <= WireLimits.name else {
      return nil
    }
    return data.readString(length: Int(length))
  }

  private func refuse(
    _ option: OptionType, _ type: OptionReplyType, _ reason: String
  ) -> Action {
    reply(option, type, ByteBuffer(string: reason))
  }

  private func reply(
    _ option: OptionType, _ type: OptionReplyType, _ body: ByteBuffer = ByteBuffer()
  ) -> Action {
    var buffer = ByteBuffer()
    var body = body
    OptionReplyHeader(option, type, length: UInt32(body.readableBytes)).write(to: &buffer)
    buffer.writeBuffer(&body)
    return .send(buffer)
  }
}
