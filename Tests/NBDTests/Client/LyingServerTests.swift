import BlockIO
import Foundation
import NIOCore
import BlockIOTesting
import Testing

@testable import NBD

/// A false answer to a read of four sectors, by name.
struct Lie: Sendable, CustomTestStringConvertible {
  let testDescription: String
  let answer: @Sendable (RequestHeader) -> ByteBuffer

  init(_ name: String, _ answer: @escaping @Sendable (RequestHeader) -> ByteBuffer) {
    testDescription = name
    self.answer = answer
  }

  static let all = [
    Lie("a wrong cookie") { Answer.chunk($0, .none, cookie: $0.cookie + 1) },
    Lie("no magic") { _ in ByteBuffer(repeating: 1, count: 64) },
    Lie("data before the range") { Answer.data($0, from: -512, count: 512) },
    Lie("data behind the range") { Answer.data($0, from: 1024, count: 1536) },
    Lie("too many data") { Answer.data($0, count: 4096) },
    Lie("the same data twice") {
      var bytes = Answer.data($0, count: 1024, last: false)
      bytes.writeImmutableBuffer(Answer.data($0, from: 512, count: 1536))
      return bytes
    },
    Lie("missing data") { Answer.data($0, count: 1024) },
    Lie("no data at all") { Answer.chunk($0, .none) },
    Lie("a hole that is too long") { request in
      Answer.chunk(request, .offsetHole) { $0.writeMultipleIntegers(request.offset, UInt32(4096)) }
    },
    Lie("a simple reply") { Answer.simple($0) },
    Lie("extents") { request in
      Answer.chunk(request, .blockStatus) { $0.writeRepeatingByte(0, count: 12) }
    },
    Lie("an error without an error") { request in
      Answer.chunk(request, .error) { $0.writeRepeatingByte(0, count: 6) }
    },
    Lie("an error of another place") { request in
      Answer.chunk(request, .errorOffset) {
        $0.writeMultipleIntegers(UInt32(5), UInt16(0), request.offset + 4096)
      }
    },
  ]
}

@Suite struct LyingServerTests {
  static var options: NBDClientOptions {
    var options = NBDClientOptions()
    options.reconnectLimit = .seconds(20)
    return options
  }

  @Test(arguments: Lie.all) func `a lie costs the connection, and is never data`(
    lie: Lie
  ) async throws {
    let server = try await ScriptedServer { connection, request, _ in
      connection == 1 ? lie.answer(request) : Answer.truth(request)
    }
    let device = try await NBDDevice.open(server.uri, Self.options)
    #expect(try await device.bytes(4..<8) == [UInt8](repeating: 7, count: 2048))
  }

  @Test func `a server that goes on lying fails the request with the reason`() async throws {
    let server = try await ScriptedServer { _, request, _ in Answer.data(request, count: 512) }
    let device = try await NBDDevice.open(server.uri, Self.options)
    let reason = await failure { _ = try await device.bytes(4..<8) }
    #expect(reason?.reason.contains("data are missing") == true, "\(String(describing: reason))")
    #expect(reason?.sectors == 4..<8)
  }

  @Test func `a write is not done before its data are sent`() async throws {
    let received = Locked<[UInt8]>([])
    let server = try await ScriptedServer(byteCount: 16 << 20, answersEarly: true) {
      _, request, data in
      if request.command == .write { received.withLock { $0 = data.array } }
      return Answer.truth(request)
    }
    let device = try await NBDDevice.open(server.uri, Self.options)
    // More than a socket takes when nobody reads from it.
    let data = varied(count: 8 << 20)
    try await device.put(data, at: 0)
    #expect(received.withLock { $0 } == data)
  }

  @Test func `an error of a place leaves what was read before it`() async throws {
    let server = try await ScriptedServer { _, request, _ in
      var bytes = Answer.data(request, count: 1024, last: false)
      bytes.writeImmutableBuffer(
        Answer.chunk(request, .errorOffset) {
          $0.writeMultipleIntegers(UInt32(5), UInt16(3))
          $0.writeString("bad")
          $0.writeInteger(request.offset + 1024)
        })
      return bytes
    }
    let device = try await NBDDevice.open(server.uri, Self.options)
    let reason = await failure { _ = try await device.bytes(4..<8) }
    #expect(reason?.sectors == 6..<8 && reason?.reason.contains("(bad)") == true)
  }

  @Test(arguments: [
    (ByteBuffer(repeating: 0, count: 18), "no NBD server"),
    (ByteBuffer(integers: Magic.greeting, Magic.oldstyle), "oldstyle"),
  ]) func `what isn't newstyle NBD is refused`(greeting: ByteBuffer, reason: String) async throws {
    let server = try await ScriptedServer(greeting: greeting) { _, _, _ in nil }
    let refusal = await failure { _ = try await NBDDevice.open(server.uri) }
    #expect(refusal?.reason.contains(reason) == true, "\(String(describing: refusal))")
  }

  @Test func `a server that says nothing is not waited for forever`() async throws {
    var options = NBDClientOptions()
    options.handshakeTimeout = .milliseconds(100)
    let server = try await ScriptedServer(greeting: ByteBuffer()) { _, _, _ in nil }
    let refusal = await failure { _ = try await NBDDevice.open(server.uri, options) }
    #expect(refusal?.reason.contains("no answer within") == true)
  }
}

extension ByteBuffer {
  init(integers: UInt64...) {
    self.init()
    for integer in integers { writeInteger(integer) }
  }
}

@Suite struct ReconnectTests {
  @Test func `what was not answered is sent again`() async throws {
    let server = try await ScriptedServer { connection, request, _ in
      connection < 3 ? nil : Answer.truth(request)
    }
    let device = try await NBDDevice.open(server.uri)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for sector in UInt64(0)..<8 {
        group.addTask {
          try await device.put([UInt8](repeating: 1, count: 512), at: Sector(sector))
        }
      }
      try await group.waitForAll()
    }
    // Nothing had been answered before the loss: nothing can be lost.
    try await device.flush()
  }

  @Test func `a flush fails when a write was answered and the connection lost`() async throws {
    let server = try await ScriptedServer { connection, request, _ in
      connection == 1 && request.command == .read ? nil : Answer.truth(request)
    }
    let device = try await NBDDevice.open(server.uri)
    try await device.put([UInt8](repeating: 1, count: 512), at: 0)
    _ = try await device.bytes(0..<1)
    for _ in 0..<2 {
      let reason = await failure { try await device.flush() }
      #expect(reason?.reason.contains("1 writes that the server had acknowledged") == true)
    }
  }

  @Test func `with a flush in time, or FUA, nothing is lost`() async throws {
    let server = try await ScriptedServer { connection, request, _ in
      connection == 1 && request.command == .read ? nil : Answer.truth(request)
    }
    let device = try await NBDDevice.open(server.uri)
    try await device.put([UInt8](repeating: 1, count: 512), at: 0)
    try await device.flush()
    try await device.put([UInt8](repeating: 1, count: 512), at: 1, .durable)
    _ = try await device.bytes(0..<1)
    try await device.flush()
  }

  @Test func `a silent server is left, and after the limit all fails`() async throws {
    let server = try await ScriptedServer { _, _, _ in ByteBuffer() }
    var options = NBDClientOptions()
    options.requestTimeout = .milliseconds(150)
    options.reconnectLimit = .milliseconds(400)
    let device = try await NBDDevice.open(server.uri, options)
    let reason = await failure { _ = try await device.bytes(0..<1) }
    #expect(reason?.reason.contains("no answer within") == true, "\(String(describing: reason))")
  }

  @Test func `a server that has gone for good fails everything after the limit`() async throws {
    guard OtherServer.isInstalled("nbdkit") else { return print("skipped: no nbdkit") }
    let server = try OtherServer("nbdkit", "memory", "1M")
    try server.start()
    var options = NBDClientOptions()
    options.reconnectLimit = .milliseconds(300)
    let device = try await NBDDevice.open(server.uri(), options)
    server.kill()
    let reason = await failure { _ = try await device.bytes(0..<1) }
    #expect(reason?.reason.contains("could not be reached again within") == true)
    let next = await failure { _ = try await device.bytes(0..<1) }
    #expect(next?.reason == reason?.reason)
  }

  @Test(arguments: [
    ServerKind(arguments: ["nbdkit", "--filter=delay", "file", "@/disk", "delay-write=5ms"]),
    ServerKind(arguments: ["qemu-nbd", "-f", "raw", "--shared=8", "@/disk"]),
  ]) func `killed and started again under load, no request is lost`(
    kind: ServerKind
  ) async throws {
    guard OtherServer.isInstalled(kind.arguments[0]) else {
      return print("skipped: \(kind.arguments[0]) is not installed")
    }
    let server = try OtherServer(kind.arguments)
    try server.write("disk", Data(count: 1 << 20))
    try server.start()
    let device = try await NBDDevice.open(server.uri())
    let answered = Locked(0)
    async let writes: Void = withThrowingTaskGroup(of: Void.self) { group in
      for lane in 0..<8 {
        group.addTask {
          for sector in stride(from: UInt64(lane), to: 800, by: 8) {
            let byte = UInt8(truncatingIfNeeded: sector * 13 + 1)
            try await device.put([UInt8](repeating: byte, count: 512), at: Sector(sector))
            answered.withLock { $0 += 1 }
          }
        }
      }
      try await group.waitForAll()
    }
    for round in 1...3 {
      // Each time with writes that have been answered and not flushed.
      while answered.withLock({ $0 < 100 * round }) { try await Task.sleep(for: .milliseconds(5)) }
      server.kill()
      try server.start()
    }
    try await writes
    for sector in 0..<UInt64(800) {
      let found = try await device.bytes(Sector(sector)..<Sector(sector + 1))
      #expect(found.allSatisfy { $0 == UInt8(truncatingIfNeeded: sector * 13 + 1) })
    }
    let flush = await failure { try await device.flush() }
    #expect(flush?.reason.contains("may be lost") == true)
  }

  @Test func `another export under the same name is not written to`() async throws {
    guard OtherServer.isInstalled("nbdkit") else { return print("skipped: no nbdkit") }
    let server = try OtherServer("nbdkit", "file", "@/disk")
    try server.write("disk", Data(count: 4096))
    try server.start()
    let device = try await NBDDevice.open(server.uri())
    server.kill()
    try server.write("disk", Data(count: 8192))
    try server.start()
    let reason = await failure { try await device.put([UInt8](repeating: 1, count: 512), at: 0) }
    #expect(reason?.reason.contains("had 4096 bytes and has 8192") == true)
    #expect(try server.read("disk") == Data(count: 8192))
  }
}
