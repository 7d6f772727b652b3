import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// Clients that want more than their limits: they wait, and nobody else does.
@Suite(.timeLimit(.minutes(1))) struct FloodTests {
  @Test func `connections beyond the limit are closed, those there stay`() async throws {
    var limits = ServerLimits()
    limits.connections = 3
    let device = numberedDisk()
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { witness in
        try await RawClient.connected(to: test.socket) { second in
          try await second.go(structured: false)
          try await RawClient.connected(to: test.socket) { third in
            try await third.go(structured: false)
            for _ in 0..<50 {
              try await RawClient.connected(to: test.socket) { #expect(await $0.hearsTheEnd()) }
            }
            try await witness.isServed()
          }
          try await test.waitForClients(2)
          try await RawClient.connected(to: test.socket) { next in
            try await next.go(structured: false)
            try await next.request(.read, length: 512)
            #expect(await next.simpleReply()?.error == WireError.none)
          }
        }
      }
    }
  }

  /// More at once than the server takes in, and larger than its pieces.
  @Test func `every request is answered, once and rightly`() async throws {
    var limits = ServerLimits()
    limits.requestsPerConnection = 4
    limits.bytesPerConnection = 1 << 20
    limits.bytes = 1 << 20
    let device = numberedDisk(8192)
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { witness in
        try await RawClient.connected(to: test.socket) { client in
          try await client.go(structured: false)
          try await client.say { buffer in
            for cookie in 0..<40 {
              RequestHeader(
                .read, cookie: UInt64(cookie), offset: UInt64(cookie) * 512 + 1000_001,
                length: cookie % 20 == 0 ? 2 << 20 : 4096
              ).write(to: &buffer)
            }
          }
          var cookies = Set<UInt64>()
          for _ in 0..<40 {
            let reply = try #require(await client.simpleReply())
            #expect(reply.error == WireError.none)
            cookies.insert(reply.cookie)
            let length = reply.cookie % 20 == 0 ? 2 << 20 : 4096
            let start = Int(reply.cookie) * 512 + 1000_001
            let heard = await client.hear(length)
            let expected = device.contents(0..<8192)[start..<start + length]
            #expect(heard.readableBytesView.elementsEqual(expected))
          }
          #expect(cookies.count == 40)
        }
        try await witness.isServed()
      }
    }
  }

  /// Requests wait on the other side of the socket: what a client sends and can't have under way
  /// isn't read.
  @Test func `what is too much isn't read`() async throws {
    var limits = ServerLimits()
    limits.requestsPerConnection = 8
    let device = HeldDevice(sectorCount: 64)
    let other = numberedDisk()
    try await TestServer.serving(limits: limits, ["held": device, "disk": other]) { test in
      try await Witness.watching(test, other) { witness in
        try await RawClient.connected(to: test.socket) { client in
          try await client.go("held", structured: false)
          let count = 20_000
          await client.sayUnheard { buffer in
            for cookie in 0..<UInt64(count) {
              RequestHeader(.write, cookie: cookie, length: 512).write(to: &buffer)
              buffer.writeRepeatingByte(UInt8(truncatingIfNeeded: cookie), count: 512)
            }
          }
          await device.waitForWrite()
          let export = try #require(test.server.registry.exports["held"])
          // What the witness asks for comes after what was there before.
          for _ in 0..<10 { try await witness.isServed() }
          #expect(export.counters.inFlight == 8)
          #expect(test.server.budget.taken == 8 * 512)
          device.releaseAll()
          for _ in 0..<count {
            let reply = try #require(await client.simpleReply())
            #expect(reply.error == WireError.none)
          }
        }
      }
    }
  }

  /// Reads whose answers nobody takes hold memory, and that is counted, of all of them together.
  @Test func `answers that aren't taken are bounded`() async throws {
    var limits = ServerLimits()
    limits.bytes = 8 << 20
    limits.connections = 16
    let device = CountedDevice(numberedDisk(4096))
    let hogs = 6
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device.memory) { witness in
        try await withHogs(hogs, test) { client in
          try await client.stopHearing()
          await client.sayUnheard { buffer in
            for cookie in 0..<UInt64(2000) {
              RequestHeader(.read, cookie: cookie, length: 2 << 20).write(to: &buffer)
            }
          }
        } then: {
          for _ in 0..<20 { try await witness.isServed() }
          // What is under way together; of each what its channel takes, one answer more, and the
          // socket's own memory.
          let bound = limits.bytes + hogs * ((4 << 20) + (2 << 20) + (1 << 20))
          #expect(device.bytesRead < bound)
          #expect(test.server.budget.taken <= limits.bytes + hogs * (2 << 20))
        }
        try await test.waitForIdleMemory()
      }
    }
  }

  /// Writes that were begun hold memory, too.
  @Test func `writes that don't end are bounded, and nobody waits for them`() async throws {
    var limits = ServerLimits()
    limits.bytes = 8 << 20
    limits.connections = 32
    limits.request = 4 << 20
    let device = numberedDisk(16384)
    let hogs = 20
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { witness in
        try await withHogs(hogs, test) { client in
          await client.sayUnheard { buffer in
            RequestHeader(.write, cookie: 1, length: 4 << 20).write(to: &buffer)
            buffer.writeRepeatingByte(0xee, count: 4 << 20 - 1)
          }
        } then: {
          // Two are enough to spend it all.
          while !test.server.budget.isSpent { try await Task.sleep(for: .milliseconds(2)) }
          for _ in 0..<20 { try await witness.isServed() }
          #expect(test.server.budget.taken < limits.bytes + limits.request)
        }
        try await test.waitForIdleMemory()
      }
    }
  }

  /// Connects that many clients, has each do `body`, and keeps them until `then` is over.
  private func withHogs(
    _ count: Int, _ test: TestServer, _ body: (RawClient) async throws -> Void,
    then: () async throws -> Void
  ) async throws {
    guard count > 0 else { return try await then() }
    try await RawClient.connected(to: test.socket) { client in
      try await client.go(structured: false)
      try await body(client)
      try await withHogs(count - 1, test, body, then: then)
    }
  }
}

/// Counts what is read.
private final class CountedDevice: BlockDevice {
  let memory: MemoryDevice
  private let count = Locked(0)
  var bytesRead: Int { count.value }

  init(_ memory: MemoryDevice) { self.memory = memory }

  var name: String { "counted" }
  var sectorCount: Sector { memory.sectorCount }
  var limits: DeviceLimits { memory.limits }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    count.withLock { $0 += buffer.byteCount }
    // Not at once, so that many are under way.
    await Task.yield()
    try await memory.read(sectors, into: buffer)
  }
  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await memory.write(sectors, from: buffer, options: options)
  }
  func flush() async throws(IOFailure) {}
}
