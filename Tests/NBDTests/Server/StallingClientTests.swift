import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// Clients that don't go on are left, after the limit and not before somebody else has waited for
/// them. No test looks at how long anything took.
@Suite(.timeLimit(.minutes(1))) struct StallingClientTests {
  /// Where in the handshake a client stops.
  enum Silence: CaseIterable {
    case atOnce, withinFlags, withinOption, withinData, beforeExport
  }

  private func say(_ part: Silence, to buffer: inout ByteBuffer) {
    switch part {
    case .atOnce: break
    case .withinFlags: buffer.writeBytes([0, 0])
    case .withinOption:
      buffer.writeInteger(UInt32(3))
      buffer.writeInteger(Magic.newstyle)
    case .withinData:
      buffer.writeInteger(UInt32(3))
      OptionHeader(.go, length: 100).write(to: &buffer)
      buffer.writeBytes([0, 0, 0, 4])
    case .beforeExport:
      buffer.writeInteger(UInt32(3))
      OptionHeader.write(.structuredReply, to: &buffer)
    }
  }

  @Test func `the handshake has a limit`() async throws {
    var limits = ServerLimits()
    limits.handshake = .seconds(3)
    let device = numberedDisk()
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { witness in
        try await withThrowingDiscardingTaskGroup { group in
          for part in Silence.allCases {
            group.addTask {
              try await RawClient.connected(to: test.socket) { client in
                _ = await client.hear(18)
                try await client.say { say(part, to: &$0) }
                if part == .beforeExport { #expect(await client.optionReply()?.1 == .ack) }
                #expect(await client.hearsTheEnd(), "\(part)")
              }
            }
          }
        }
        try await witness.isServed()
      }
    }
  }

  @Test func `half a request is waited for no longer than the limit`() async throws {
    var limits = ServerLimits()
    limits.stall = .seconds(1)
    let device = numberedDisk()
    let before = device.contents(1000..<1100)
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { witness in
        try await withThrowingDiscardingTaskGroup { group in
          for count in [1, 27, 28, 29, 28 + 4095] {
            group.addTask {
              try await RawClient.connected(to: test.socket) { client in
                try await client.go(structured: false)
                try await client.say { buffer in
                  RequestHeader(.write, cookie: 1, offset: 512_000, length: 4096)
                    .write(to: &buffer)
                  buffer.writeRepeatingByte(0xee, count: 4096)
                  buffer = buffer.getSlice(at: 0, length: count) ?? buffer
                }
                #expect(await client.hearsTheEnd(), "\(count) bytes")
              }
            }
          }
        }
        try await witness.isServed()
        try await test.waitForIdleMemory()
      }
    }
    // What didn't come whole was not written.
    #expect(device.contents(1000..<1100) == before)
  }

  /// A byte now and then doesn't buy more time.
  @Test func `a request that trickles in is a stalled one`() async throws {
    var limits = ServerLimits()
    limits.stall = .seconds(1)
    let device = numberedDisk()
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { _ in
        try await RawClient.connected(to: test.socket) { client in
          try await client.go(structured: false)
          try await client.request(.write, length: 1 << 20)
          let trickle = Task {
            while true {
              try await client.say { $0.writeInteger(UInt8(1)) }
              try await Task.sleep(for: .milliseconds(20))
            }
          }
          #expect(await client.hearsTheEnd())
          trickle.cancel()
        }
      }
    }
  }

  @Test(arguments: [false, true]) func `answers that aren't taken are not kept forever`(
    saysGoodbye: Bool
  ) async throws {
    var limits = ServerLimits()
    limits.stall = .seconds(1)
    limits.connections = 2
    let device = numberedDisk(16384)
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await Witness.watching(test, device) { witness in
        try await RawClient.connected(to: test.socket) { client in
          try await client.go(structured: false)
          try await client.stopHearing()
          await client.sayUnheard { buffer in
            for cookie in 0..<UInt64(16) {
              RequestHeader(.read, cookie: cookie, length: 8 << 20).write(to: &buffer)
            }
            if saysGoodbye { RequestHeader(.disconnect, cookie: 0).write(to: &buffer) }
          }
          try await test.waitForClients(1)
          try await witness.isServed()
          // Its place is free again, and its memory.
          while true {
            let isIn = try await RawClient.connected(to: test.socket) { next in
              await next.hear(18).readableBytes == 18
            }
            if isIn { break }
          }
          try await test.waitForIdleMemory()
        }
      }
    }
  }
}
