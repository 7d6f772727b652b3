import BlockIO
import BlockIOTesting
import Foundation
import NIOCore
import Testing

@testable import NBD

/// The server by raw bytes, on a device in memory.
@Suite struct ServerTests {
  @Test(arguments: [true, false])
  func readsAndWrites(isStructured: Bool) async throws {
    let device = numberedDisk()
    try await TestServer.serving(["disk": device]) { test in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: isStructured)
        let data = (0..<1000).map { UInt8(truncatingIfNeeded: $0 * 7) }
        // Neither begin nor end are whole sectors.
        try await client.request(.write, offset: 700, length: 1000, data: data)
        #expect(await client.simpleReply()?.error == WireError.none)
        try await client.request(.read, cookie: 8, offset: 600, length: 1200)
        var expected = device.contents(0..<8)[600..<1800].map { $0 }
        expected.replaceSubrange(100..<1100, with: data)
        if isStructured {
          var chunk = try #require(await client.chunk())
          #expect(chunk.type == .offsetData && chunk.flags == .done && chunk.cookie == 8)
          #expect(chunk.body.readInteger(as: UInt64.self) == 600)
          #expect(Array(chunk.body.readableBytesView) == expected)
        } else {
          #expect(await client.simpleReply()?.cookie == 8)
          #expect(Array((await client.hear(1200)).readableBytesView) == expected)
        }
        #expect(device.contents(0..<8)[700..<1700].map { $0 } == data)
      }
    }
  }

  @Test func refusesWhatCannotBe() async throws {
    try await TestServer.serving(["disk": numberedDisk()]) { test in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: false)
        let end = numberedDisk().byteCount
        for (command, flags, offset, length, error) in [
          (CommandType.read, CommandFlags(), end - 1, UInt32(2), WireError.invalid),
          (.write, [], end, 1, .noSpace), (.read, [], .max, 512, .invalid),
          (.read, .fastZero, 0, 512, .invalid), (.flush, [], 0, 512, .invalid),
          (.read, [], 0, 0, .invalid), (.blockStatus, [], 0, 512, .invalid),
          (.read, [], 0, 40 << 20, .invalid), (CommandType(rawValue: 99), [], 0, 1, .invalid),
        ] {
          try await client.request(
            command, flags: flags, offset: offset, length: length,
            data: command == .write ? [1] : [])
          #expect(await client.simpleReply()?.error == error, "\(command) \(offset) \(length)")
        }
        try await client.request(.disconnect)
        #expect(await client.hearsTheEnd())
      }
    }
  }

  @Test func readOnlyStaysAsItIs() async throws {
    let device = numberedDisk()
    let before = device.contents(0..<2048)
    try await TestServer.serving(["disk": device], isReadOnly: true) { test in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: false)
        try await client.request(.write, length: 512, data: .init(repeating: 1, count: 512))
        #expect(await client.simpleReply()?.error == .notPermitted)
        try await client.request(.writeZeroes, length: 512)
        #expect(await client.simpleReply()?.error == .notPermitted)
        try await client.request(.trim, length: 512)
        #expect(await client.simpleReply()?.error == .notPermitted)
      }
    }
    #expect(device.contents(0..<2048) == before)
  }

  @Test func zeroesTrimsAndTellsExtents() async throws {
    let device = numberedDisk()
    try await TestServer.serving(["disk": device]) { test in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go()
        try await client.request(.writeZeroes, flags: [.fua], offset: 100, length: 5000)
        #expect(await client.simpleReply()?.error == WireError.none)
        #expect(device.contents(0..<16)[100..<5100].allSatisfy { $0 == 0 })
        #expect(device.contents(0..<1)[99] != 0)
        try await client.request(.trim, offset: 8192, length: 4096)
        #expect(await client.simpleReply()?.error == WireError.none)
        try await client.request(.blockStatus, offset: 512, length: 1024)
        var chunk = try #require(await client.chunk())
        #expect(chunk.type == .blockStatus)
        #expect(chunk.body.readInteger(as: UInt32.self) == ServerNegotiation.allocationContext)
        #expect(chunk.body.readInteger(as: UInt32.self) == 1024)
      }
    }
  }

  @Test func whatWasAskedForIsAnsweredBeforeTheEnd() async throws {
    let device = HeldDevice(sectorCount: 64)
    try await TestServer.serving(["disk": device]) { test in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: false)
        try await client.request(.write, length: 512, data: .init(repeating: 5, count: 512))
        await device.waitForWrite()
        let end = Task { await test.server.shutDown() }
        try await Task.sleep(for: .milliseconds(20))
        device.releaseAll()
        #expect(await client.simpleReply()?.error == WireError.none)
        await end.value
        #expect(await client.hearsTheEnd())
      }
    }
    #expect(device.memory.contents(0..<1)[0] == 5)
  }
}
