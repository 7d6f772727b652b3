import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// What shakes hands with a server; that of the client, and those that can't be relied on.
protocol Handshaking {
  mutating func receive(_ bytes: ByteBuffer) throws(LineFailure) -> [ClientHandshake.Action]
  var pendingBytes: Int { get }
}

extension ClientHandshake: Handshaking {}

/// Whatever a server says in the handshake, the client agrees on an export, refuses, or waits.
@Suite struct HandshakeFuzzTests {
  private static let offer = OfferedExport(
    byteCount: 1 << 20, flags: [.hasFlags, .sendFlush, .sendFUA], description: "a disk",
    minimumBlock: 512, preferredBlock: 4096, maximumBlock: 32 << 20)

  /// Client and server talk to each other; of what the server says `change` makes something else.
  private static func talk(
    _ makeClient: (ClientHandshake) -> some Handshaking = { $0 },
    _ change: (inout [UInt8], inout SeededRandom) -> Void, _ random: inout SeededRandom
  ) throws -> ExportInfo? {
    var client = makeClient(ClientHandshake(export: "disk", tls: false))
    var server = ServerNegotiation(offersTLS: false, requiresTLS: false)
    let catalogue = ServerNegotiation.Catalogue(exports: ["disk": offer])
    var said = ServerNegotiation.greeting.array
    for _ in 0..<20 {
      change(&said, &random)
      var asked = ByteBuffer()
      for piece in random.cut(said) {
        for action in try client.receive(piece) {
          switch action {
          case .send(let bytes): asked.writeImmutableBuffer(bytes)
          case .startTLS: throw CheckFailure("TLS that nobody wants")
          case .use(let info): return info
          }
        }
        try ensureBound(client)
      }
      said = []
      for action in server.receive(asked, catalogue) {
        if case .send(let bytes) = action { said += bytes.array }
      }
      if said.isEmpty { return try flood(&client) }
    }
    throw CheckFailure("a handshake without an end")
  }

  private static func ensureBound(_ client: some Handshaking) throws(CheckFailure) {
    try ensure(
      client.pendingBytes < OptionReplyHeader.size + WireLimits.optionReply,
      "\(client.pendingBytes) bytes are kept")
  }

  /// Who still waits is given more than any answer may have.
  private static func flood(_ client: inout some Handshaking) throws -> ExportInfo? {
    for _ in 0..<20 {
      for case .use(let info) in try client.receive(ByteBuffer(repeating: 0, count: 4096)) {
        return info
      }
      try ensureBound(client)
    }
    return nil
  }

  private static func checkMutated(
    _ makeClient: (ClientHandshake) -> some Handshaking
  ) throws(SeedFailure) {
    try forEachSeed(60) { seed in
      var random = SeededRandom(seed: seed)
      for _ in 0..<20 {
        let info: ExportInfo?
        do {
          info = try Self.talk(makeClient, { if $1.chance(1, in: 3) { $1.mutate(&$0) } }, &random)
        } catch is LineFailure {
          continue
        }
        guard let info else { continue }
        // Whatever it is: nothing that requests can't be made from.
        try ensure(info.byteCount <= UInt64(Int64.max), "a size that can't be")
        try ensure(info.minimumBlock.nonzeroBitCount == 1 && info.minimumBlock <= 65536, "blocks")
        try ensure(
          info.maximum >= info.minimumBlock && info.maximum % info.minimumBlock == 0
            && info.maximum <= WireLimits.defaultMaximum, "a largest request of \(info.maximum)")
        try ensure(info.isStructured || info.allocation == nil, "a context without structure")
      }
    }
  }

  @Test func `mutated answers, in any pieces`() throws { try Self.checkMutated { $0 } }

  private static func checkTrue(
    _ makeClient: (ClientHandshake) -> some Handshaking
  ) throws(SeedFailure) {
    try forEachSeed(30) { seed in
      var random = SeededRandom(seed: seed)
      let info = try Self.talk(makeClient, { _, _ in }, &random)
      try ensure(
        info
          == ExportInfo(
            byteCount: 1 << 20, flags: Self.offer.flags, minimumBlock: 512, preferredBlock: 4096,
            maximum: 32 << 20, isStructured: true,
            allocation: ServerNegotiation.allocationContext), "\(String(describing: info))")
    }
  }

  @Test func `what isn't mutated is what the server offers`() throws { try Self.checkTrue { $0 } }

  /// Believes any length of an answer, and waits for all of it.
  private struct Credulous: Handshaking {
    var client: ClientHandshake
    var believed = 0
    var pendingBytes: Int { believed + client.pendingBytes }

    mutating func receive(_ bytes: ByteBuffer) throws(LineFailure) -> [ClientHandshake.Action] {
      guard believed == 0 else {
        believed += bytes.readableBytes
        return []
      }
      do throws(LineFailure) {
        return try client.receive(bytes)
      } catch {
        guard error.description.contains("bytes to an option") else { throw error }
        believed += bytes.readableBytes
        return []
      }
    }
  }

  @Test func `a client that believes a length is found`() {
    #expect(throws: SeedFailure.self) { try Self.checkMutated { Credulous(client: $0) } }
  }

  /// Takes the answer to its first question for given and goes on.
  private struct Hasty: Handshaking {
    var client: ClientHandshake
    var isHasty = true
    var pendingBytes: Int { client.pendingBytes }

    mutating func receive(_ bytes: ByteBuffer) throws(LineFailure) -> [ClientHandshake.Action] {
      let actions = try client.receive(bytes)
      guard isHasty, actions.count == 2 else { return actions }
      isHasty = false
      var answer = ByteBuffer()
      OptionReplyHeader(.structuredReply, .ack, length: 0).write(to: &answer)
      return try actions + client.receive(answer)
    }
  }

  @Test func `a client that skips an answer is found`() {
    #expect(throws: SeedFailure.self) { try Self.checkTrue { Hasty(client: $0) } }
  }
}
