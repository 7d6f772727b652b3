import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// Whatever a client says in the handshake, it is answered in order, or not at all, and however it
/// comes in pieces.
@Suite struct NegotiationFuzzTests {
  private static let names = ["disk", "", "größer", String(repeating: "n", count: 4096)]

  private static func catalogue(_ random: inout SeededRandom) -> ServerNegotiation.Catalogue {
    var exports: [String: OfferedExport] = [:]
    for name in names where random.chance(3, in: 4) {
      exports[name] = OfferedExport(
        byteCount: random.next(), flags: [.hasFlags, .sendFlush], description: "a disk",
        minimumBlock: 1, preferredBlock: 4096, maximumBlock: 32 << 20)
    }
    return .init(exports: exports)
  }

  /// What a client of good manners says.
  private static func conversation(_ random: inout SeededRandom) -> [UInt8] {
    var buffer = ByteBuffer()
    buffer.writeInteger(UInt32(random.one(of: [1, 3, 3, 3])))
    func name(_ random: inout SeededRandom, to data: inout ByteBuffer) {
      let name = random.one(of: names + ["none"])
      data.writeInteger(UInt32(name.utf8.count))
      data.writeString(name)
    }
    for _ in 0..<random.below(9) {
      var data = ByteBuffer()
      let option = random.one(of: [
        OptionType.list, .info, .go, .structuredReply, .structuredReply, .listMetaContext,
        .setMetaContext, .startTLS, .exportName, .abort, OptionType(rawValue: 11),
      ])
      switch option {
      case .info, .go:
        name(&random, to: &data)
        data.writeInteger(UInt16(2))
        data.writeMultipleIntegers(InfoType.name.rawValue, InfoType.blockSize.rawValue)
      case .listMetaContext, .setMetaContext:
        name(&random, to: &data)
        let queries = Array(["base:allocation", "base:", "qemu:x"].prefix(random.below(4)))
        data.writeInteger(UInt32(queries.count))
        for query in queries {
          data.writeInteger(UInt32(query.utf8.count))
          data.writeString(query)
        }
      case .exportName: data.writeString(random.one(of: names))
      case .list, .abort, .startTLS, .structuredReply: break
      default: data.writeRepeatingByte(7, count: random.below(100))
      }
      OptionHeader(option, length: UInt32(data.readableBytes)).write(to: &buffer)
      buffer.writeBuffer(&data)
    }
    return buffer.array
  }

  /// The options that are in there, up to where there is none.
  private static func options(in bytes: [UInt8]) -> [OptionType] {
    var buffer = ByteBuffer(bytes: bytes)
    guard let flags: UInt32 = buffer.readInteger(), flags <= 3 else { return [] }
    var options: [OptionType] = []
    while let header = OptionHeader(&buffer), header.length <= 65536,
      buffer.readSlice(length: Int(header.length)) != nil
    {
      options.append(header.option)
    }
    return options
  }

  /// What the server does, all bytes sent put together.
  private struct Course: Equatable {
    var sent: [UInt8] = []
    var end: ServerNegotiation.Action?
    var isEncrypted = false
  }

  private static func run(
    _ pieces: [ByteBuffer], offersTLS: Bool, requiresTLS: Bool,
    _ catalogue: ServerNegotiation.Catalogue
  ) throws(CheckFailure) -> Course {
    var negotiation = ServerNegotiation(offersTLS: offersTLS, requiresTLS: requiresTLS)
    var course = Course()
    for piece in pieces {
      for action in negotiation.receive(piece, catalogue) {
        try ensure(course.end == nil, "something is done after the end: \(action)")
        switch action {
        case .send(let bytes): course.sent += bytes.array
        case .startTLS:
          course.isEncrypted = true
          negotiation.becameSecure()
        case .transmit, .close: course.end = action
        }
      }
      try ensure(
        course.end != nil || negotiation.pendingBytes < OptionHeader.size + 65536,
        "\(negotiation.pendingBytes) bytes are kept")
      if course.end != nil { break }
    }
    return course
  }

  /// Every answer is one to the next option, and ends before the one after it is answered.
  private static func check(
    _ course: Course, _ options: [OptionType], _ catalogue: ServerNegotiation.Catalogue
  ) throws(CheckFailure) {
    var sent = ByteBuffer(bytes: course.sent)
    var asked = options[...]
    while sent.readableBytes > 0 {
      guard let option = asked.first else { throw CheckFailure("an answer that nobody asked for") }
      if option == .exportName, case .transmit(let agreement)? = course.end, asked.count >= 1,
        let header = peek(sent), header == nil
      {
        let export = catalogue.find(agreement.export)
        try ensure(sent.readInteger() == export?.byteCount, "another size")
        try ensure([2, 126].contains(sent.readableBytes), "another length of the old answer")
        return
      }
      guard let reply = OptionReplyHeader(&sent), sent.readSlice(length: Int(reply.length)) != nil
      else { throw CheckFailure("no answer to an option") }
      try ensure(reply.option == option, "\(reply.option) is answered, \(option) was asked")
      if reply.type == .ack || reply.type.isError { asked.removeFirst() }
    }
    if case .transmit(let agreement)? = course.end {
      try ensure(catalogue.find(agreement.export) != nil, "an export that isn't there")
      try ensure(!agreement.hasAllocation || agreement.isStructured, "a context without structure")
    }
  }

  private static func peek(_ buffer: ByteBuffer) -> OptionReplyHeader?? {
    var copy = buffer
    return .some(OptionReplyHeader(&copy))
  }

  @Test func `mutated conversations, in any pieces`() throws {
    try forEachSeed(80) { seed in
      var random = SeededRandom(seed: seed)
      let catalogue = Self.catalogue(&random)
      for _ in 0..<20 {
        var bytes = Self.conversation(&random)
        for _ in 0..<random.below(4) { random.mutate(&bytes) }
        let offersTLS = random.chance(1, in: 3)
        let requiresTLS = offersTLS && random.chance(1, in: 3)
        let cut = try Self.run(
          random.cut(bytes), offersTLS: offersTLS, requiresTLS: requiresTLS, catalogue)
        let options = Self.options(in: bytes)
        try Self.check(cut, options, catalogue)
        if requiresTLS, !cut.isEncrypted, case .transmit? = cut.end {
          throw CheckFailure("an export in plain")
        }
        // Behind a change to TLS other bytes would follow.
        if !cut.isEncrypted, !options.contains(.startTLS) {
          let whole = try Self.run(
            [ByteBuffer(bytes: bytes)], offersTLS: offersTLS, requiresTLS: requiresTLS, catalogue)
          try ensure(whole == cut, "it depends on the pieces")
        }
      }
    }
  }

  /// Whoever asks for long lists again and again is sent a bounded number of bytes.
  @Test func `lists are bounded in bytes`() throws {
    let device = OfferedExport(
      byteCount: 512, flags: [.hasFlags], description: "", minimumBlock: 1, preferredBlock: 4096,
      maximumBlock: 32 << 20)
    let names = (0..<1024).map { "\($0)-" + String(repeating: "x", count: 4000) }
    let catalogue = ServerNegotiation.Catalogue(
      exports: Dictionary(uniqueKeysWithValues: names.map { ($0, device) }))
    var bytes = ByteBuffer(integer: UInt32(1))
    for _ in 0..<900 { OptionHeader(.list, length: 0).write(to: &bytes) }
    var server = ServerNegotiation(offersTLS: false, requiresTLS: false)
    var sent = 0
    var end: String?
    for action in server.receive(bytes, catalogue) {
      switch action {
      case .send(let buffer): sent += buffer.readableBytes
      case .close(let reason): end = reason
      default: break
      }
    }
    try ensure(end == "lists without an end", "\(end ?? "open")")
    try ensure(sent > 16 << 20 && sent < 21 << 20, "\(sent) bytes")
  }

  /// The check finds what it is for.
  @Test func `an answer too many, a wrong one and one too early are found`() throws {
    let catalogue = ServerNegotiation.Catalogue(exports: [:])
    func sent(_ replies: (OptionType, OptionReplyType)...) -> Course {
      var buffer = ByteBuffer()
      for (option, type) in replies {
        OptionReplyHeader(option, type, length: 0).write(to: &buffer)
      }
      return Course(sent: buffer.array)
    }
    let asked: [OptionType] = [.structuredReply, .list]
    try Self.check(sent((.structuredReply, .ack), (.list, .ack)), asked, catalogue)
    for wrong in [
      sent((.structuredReply, .ack), (.list, .ack), (.list, .ack)), sent((.list, .ack)),
      sent((.structuredReply, .ack), (.structuredReply, .ack)),
      sent((.structuredReply, .ack), (.go, .unsupported)),
    ] {
      #expect(throws: CheckFailure.self) { try Self.check(wrong, asked, catalogue) }
    }
  }
}
