import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// Clients that say what the protocol doesn't know. Each costs at most its own connection.
@Suite(.timeLimit(.minutes(1))) struct LyingClientTests {
  /// Something that ends the connection, by name.
  struct Garbage: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let bytes: ByteBuffer

    init(_ name: String, _ write: (inout ByteBuffer) -> Void) {
      testDescription = name
      var buffer = ByteBuffer()
      write(&buffer)
      bytes = buffer
    }

    /// Instead of what follows the greeting.
    static let inHandshake = [
      Garbage("unknown flags") { $0.writeInteger(UInt32(4)) },
      Garbage("all flags") { $0.writeInteger(UInt32.max) },
      Garbage("HTTP") { $0.writeString("GET / HTTP/1.1\r\nHost: a\r\n\r\n") },
      Garbage("no option") {
        $0.writeInteger(UInt32(3))
        $0.writeMultipleIntegers(Magic.newstyle &+ 1, UInt32(7), UInt32(0))
      },
      Garbage("a request") {
        $0.writeInteger(UInt32(3))
        RequestHeader(.read, cookie: 1, length: 512).write(to: &$0)
      },
      Garbage("an option of 64 KiB and one byte") {
        $0.writeInteger(UInt32(3))
        OptionHeader(.go, length: 65537).write(to: &$0)
      },
      Garbage("an option of 4 GiB") {
        $0.writeInteger(UInt32(3))
        OptionHeader(OptionType(rawValue: 99), length: .max).write(to: &$0)
      },
      Garbage("an export that isn't there") {
        $0.writeInteger(UInt32(1))
        OptionHeader.write(.exportName, Array("none".utf8), to: &$0)
      },
      Garbage("an export's name that is too long") {
        $0.writeInteger(UInt32(1))
        OptionHeader.write(.exportName, .init(repeating: 97, count: 5000), to: &$0)
      },
      Garbage("options without an end") {
        $0.writeInteger(UInt32(3))
        for _ in 0..<1001 { OptionHeader.write(OptionType(rawValue: 77), to: &$0) }
      },
    ]

    /// Instead of a request.
    static let inTransmission = [
      Garbage("no request") { $0.writeRepeatingByte(0xff, count: 28) },
      Garbage("an option") {
        OptionHeader.write(.list, .init(repeating: 0, count: 12), to: &$0)
      },
      Garbage("an answer") {
        ReplyHeader.simple(error: .none, cookie: 7).write(to: &$0)
        $0.writeRepeatingByte(0, count: 12)
      },
      Garbage("an extended request") { $0.writeMultipleIntegers(UInt32(0x21e4_1c71), 0, 0, 0) },
      Garbage("a write of 4 GiB") { RequestHeader(.write, cookie: 1, length: .max).write(to: &$0) },
      Garbage("a write of a byte too many") {
        RequestHeader(.write, cookie: 1, length: (1 << 20) + 1).write(to: &$0)
      },
      Garbage("a request behind one that is none") {
        $0.writeRepeatingByte(0, count: 28)
        RequestHeader(.write, cookie: 1, length: 1).write(to: &$0)
        $0.writeInteger(UInt8(0xee))
      },
    ]
  }

  private func serving(
    _ body: (TestServer, Witness) async throws -> Void
  ) async throws {
    var limits = ServerLimits()
    limits.request = 1 << 20
    let device = numberedDisk()
    let before = device.contents(16..<2048)
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { try await body(test, $0) }
    }
    #expect(device.contents(16..<2048) == before, "something was written")
  }

  @Test(arguments: Garbage.inHandshake) func `garbage in the handshake`(
    garbage: Garbage
  ) async throws {
    try await serving { test, witness in
      try await RawClient.connected(to: test.socket) { client in
        _ = await client.hear(18)
        try await client.say { $0.writeImmutableBuffer(garbage.bytes) }
        var answers = await client.hearAll()
        // Refusals of options at most.
        while answers.readableBytes > 0 {
          let reply = try #require(OptionReplyHeader(&answers))
          #expect(reply.type.isError)
          answers.moveReaderIndex(forwardBy: Int(reply.length))
        }
      }
      try await witness.isServed()
    }
  }

  @Test(arguments: Garbage.inTransmission) func `garbage instead of a request`(
    garbage: Garbage
  ) async throws {
    try await serving { test, witness in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: false)
        try await client.say { $0.writeImmutableBuffer(garbage.bytes) }
        #expect(await client.hearsTheEnd())
      }
      try await witness.isServed()
    }
  }

  /// What was asked for before is answered though the rest is garbage, or not at all; never wrongly.
  @Test func `garbage behind a request`() async throws {
    try await serving { test, _ in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: false)
        try await client.say { buffer in
          RequestHeader(.read, cookie: 3, offset: 1 << 16, length: 512).write(to: &buffer)
          buffer.writeRepeatingByte(0xff, count: 28)
        }
        var heard = await client.hearAll()
        if heard.readableBytes > 0 {
          #expect(ReplyHeader(&heard) == .simple(error: .none, cookie: 3))
          #expect(
            heard.readableBytesView.elementsEqual(numberedDisk().contents(128..<129)))
        }
      }
    }
  }

  /// Options with data that aren't right, what they are refused with, and a handshake that goes on.
  @Test func `malformed options are refused, and the handshake goes on`() async throws {
    func bytes(_ write: (inout ByteBuffer) -> Void) -> [UInt8] {
      var buffer = ByteBuffer()
      write(&buffer)
      return Array(buffer.readableBytesView)
    }
    let disk = bytes {
      $0.writeInteger(UInt32(4))
      $0.writeString("disk")
    }
    let none = bytes {
      $0.writeInteger(UInt32(4))
      $0.writeString("none")
    }
    let cases: [(OptionType, [UInt8], OptionReplyType)] = [
      (.go, [], .invalid), (.go, [0, 0, 0, 9, 100], .invalid),
      (.go, [255, 255, 255, 255], .invalid), (.go, disk, .invalid), (.go, disk + [0], .invalid),
      (.go, disk + [0, 1], .invalid), (.go, disk + [255, 255, 0, 3], .invalid),
      (.go, disk + [0, 0, 0, 0], .invalid), (.go, none + [0, 0], .unknown),
      (.info, [0, 0, 16, 1], .invalid), (.info, none + [0, 1, 0, 3], .unknown),
      (.list, [0], .invalid), (.startTLS, [], .policy), (.startTLS, [1], .invalid),
      (.setMetaContext, disk + [0, 0, 0, 0], .invalid), (.structuredReply, [1], .invalid),
      (.structuredReply, [], .ack), (.setMetaContext, disk, .invalid),
      (.setMetaContext, disk + [255, 255, 255, 255], .invalid),
      (.setMetaContext, disk + [0, 0, 0, 1, 255, 255, 255, 255], .invalid),
      (.setMetaContext, disk + [0, 0, 0, 1, 0, 0, 0, 1, 97, 97], .invalid),
      (.setMetaContext, none + [0, 0, 0, 0], .unknown),
      (.setMetaContext, disk + [0, 0, 0, 1, 0, 0, 0, 3, 97, 58, 98], .ack),
      (.listMetaContext, none + [0, 0, 0, 0], .unknown), (.listMetaContext, [], .invalid),
      (OptionType(rawValue: 0), [], .unsupported), (OptionType(rawValue: 4), [], .unsupported),
      (OptionType(rawValue: 11), [], .unsupported),
      (OptionType(rawValue: .max), .init(repeating: 1, count: 65536), .unsupported),
    ]
    try await serving { test, witness in
      try await RawClient.connected(to: test.socket) { client in
        _ = await client.hear(18)
        try await client.say { $0.writeInteger(UInt32(3)) }
        for (option, data, expected) in cases {
          try await client.say { OptionHeader.write(option, data, to: &$0) }
          let (answered, reply) = try #require(await client.optionReply())
          #expect(answered == option && reply == expected, "\(option) \(data.prefix(20)) \(reply)")
        }
        try await client.say { OptionHeader.write(.go, disk + [0, 0], to: &$0) }
        while let (_, reply) = await client.optionReply(), reply != .ack {}
        try await client.request(.read, offset: 9, length: 3)
        #expect(await client.chunk()?.type == .offsetData)
      }
      try await witness.isServed()
    }
  }

  /// All that a head can say wrongly is refused, in order, and the connection goes on.
  @Test(arguments: [false, true]) func `requests that make no sense`(
    isStructured: Bool
  ) async throws {
    try await serving { test, witness in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: isStructured)
        let end = numberedDisk().byteCount
        var cookie: UInt64 = 100
        func refused(
          _ command: CommandType, _ flags: CommandFlags = [], _ offset: UInt64 = 0,
          _ length: UInt32 = 512, _ expected: WireError = .invalid
        ) async throws {
          cookie += 1
          let data = command == .write ? [UInt8](repeating: 0xee, count: Int(length)) : []
          try await client.request(
            command, flags: flags, cookie: cookie, offset: offset, length: length, data: data)
          if isStructured {
            var chunk = try #require(await client.chunk())
            #expect(chunk.type == .error && chunk.flags == .done && chunk.cookie == cookie)
            #expect(
              chunk.body.readInteger() == expected.rawValue, "\(command) \(offset) \(length)")
          } else {
            let reply = try #require(await client.simpleReply())
            #expect(reply.error == expected && reply.cookie == cookie)
          }
        }
        for number in [8, 9, 99, 0x7fff, 0xffff] as [UInt16] {
          try await refused(CommandType(rawValue: number))
        }
        let commands: [CommandType] = [.read, .write, .flush, .trim, .cache, .writeZeroes]
        for command in commands {
          for bit in 5..<16 {
            let length: UInt32 = command == .flush ? 0 : 512
            try await refused(command, CommandFlags(rawValue: 1 << bit), 0, length)
          }
        }
        try await refused(.write, .noHole)
        try await refused(.write, .dontFragment)
        try await refused(.read, .requestOne)
        for command in commands where command != .flush {
          let isFull = command == .write || command == .writeZeroes
          for (offset, length) in [
            (end, 1), (end - 1, 2), (UInt64.max, 1), (.max - 511, 512), (1 << 63, 512),
          ] as [(UInt64, UInt32)] {
            try await refused(command, [], offset, length, isFull ? .noSpace : .invalid)
          }
          try await refused(command, [], 0, 0)
        }
        try await refused(.flush, [], 0, 1)
        try await refused(.flush, [], 1, 0)
        try await refused(.read, [], 0, (1 << 20) + 1)
        try await refused(.read, [], 0, .max)
        if !isStructured { try await refused(.blockStatus) }
      }
      try await witness.isServed()
    }
  }
}
