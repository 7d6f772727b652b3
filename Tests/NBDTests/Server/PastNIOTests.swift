import BlockIO
import BlockIOTesting
import Dispatch
import NIOCore
import Testing

@testable import NBD

/// What moves between socket and memory past NIO: in the same order, and with a turn for others.
@Suite(.timeLimit(.minutes(1))) struct PastNIOTests {
  /// Small and large requests in whatever pieces the socket brings them, with and without looking
  /// for what comes next.
  @Test(arguments: [Duration.zero, .milliseconds(5)], 0..<2 as Range<UInt64>)
  func piecesDoNotMatter(poll: Duration, seed: UInt64) async throws {
    var limits = ServerLimits()
    limits.poll = poll
    let sectorCount = 2048
    let device = MemoryDevice(sectorCount: Sector(UInt64(sectorCount)))
    try await TestServer.serving(limits: limits, ["disk": device]) { test in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: false)
        var random = SeededRandom(seed: seed)
        var model = [UInt8](repeating: 0, count: sectorCount * 512)
        for _ in 0..<6 {
          var said = ByteBuffer()
          var expected = ByteBuffer()
          for cookie in 0..<UInt64.random(in: 1...6, using: &random) {
            let length = [512, 4096, 1024, 32_768, 200_192, 262_144].randomElement(using: &random)!
            let offset = Int.random(in: 0...(model.count - length) / 512, using: &random) * 512
            let isWrite = Bool.random(using: &random)
            RequestHeader(
              isWrite ? .write : .read, cookie: cookie, offset: UInt64(offset),
              length: UInt32(length)
            ).write(to: &said)
            expected.writeInteger(UInt32(0x6744_6698))
            expected.writeInteger(UInt32(0))
            expected.writeInteger(cookie)
            if isWrite {
              let fill = UInt8.random(in: 0...255, using: &random)
              let data = (0..<length).map { UInt8(truncatingIfNeeded: $0 / 512) ^ fill }
              model.replaceSubrange(offset..<offset + length, with: data)
              said.writeBytes(data)
            } else {
              expected.writeBytes(model[offset..<offset + length])
            }
          }
          while said.readableBytes > 0 {
            let most = Bool.random(using: &random) ? 64 : 300_000
            let count = min(said.readableBytes, Int.random(in: 1...most, using: &random))
            let piece = said.readSlice(length: count) ?? ByteBuffer()
            try await client.say { $0.writeImmutableBuffer(piece) }
          }
          #expect(await client.hear(expected.readableBytes) == expected)
        }
        #expect(device.contents(0..<Sector(UInt64(sectorCount))) == model)
      }
    }
  }

  /// What the socket doesn't take is NIO's to send, and everything else comes behind it, even if
  /// the socket takes more by then.
  @Test func answersKeepTheirOrder() async throws {
    let memory = numberedDisk(4096)
    let device = HeldReads(memory, at: 3000)
    try await TestServer.serving(["disk": device]) { test in
      try await RawClient.connected(to: test.socket) { client in
        try await client.go(structured: false)
        try await client.stopHearing()
        let connection = try #require(test.server.registry.connections().first)
        try await connection.channel.setOption(.socketOption(.so_sndbuf), value: 128 << 10).get()
        try await client.say { buffer in
          RequestHeader(.read, cookie: 1, offset: 0, length: 1 << 20).write(to: &buffer)
          RequestHeader(.read, cookie: 2, offset: 3000 * 512, length: 512).write(to: &buffer)
        }
        await device.isReached()
        // Now there is room.
        try await client.hearAgain()
        let start = await client.hear(16 + 65_536)
        device.letGo()
        var all = start
        all.writeImmutableBuffer(await client.hear(16 + (1 << 20) - start.readableBytes))
        all.moveReaderIndex(forwardBy: 16)
        #expect(all == ByteBuffer(bytes: memory.contents(0..<2048)))
        #expect(await client.simpleReply()?.cookie == 2)
        #expect(await client.hear(512) == ByteBuffer(bytes: memory.contents(3000..<3001)))
      }
    }
  }

  /// A client that never pauses has its thread for a while only.
  @Test func othersHaveTheirTurn() async throws {
    var limits = ServerLimits()
    limits.poll = .seconds(10)
    let device = numberedDisk()
    try await TestServer.serving(limits: limits, helpers: 0, ["disk": device]) { test in
      try await RawClient.connected(to: test.socket) { first in
        try await first.go(structured: false)
        try await withThrowingTaskGroup { group in
          group.addTask {
            while !Task.isCancelled {
              try await first.request(.read, length: 512)
              _ = await first.hear(16 + 512)
            }
          }
          for _ in 0..<3 {
            try await RawClient.connected(to: test.socket) { second in
              try await second.go(structured: false)
              try await second.request(.read, length: 512)
              #expect(await second.simpleReply()?.error == WireError.none)
            }
          }
          group.cancelAll()
          try await group.waitForAll()
        }
      }
    }
  }
}

/// Keeps a read on the spot, and its thread with it, until it is let go.
private final class HeldReads: ForwardingDevice {
  let underlying: any BlockDevice
  private let sector: Sector
  private let mayGo = DispatchSemaphore(value: 0)
  private let reached = AsyncStream.makeStream(of: Void.self)

  init(_ underlying: any BlockDevice, at sector: Sector) {
    self.underlying = underlying
    self.sector = sector
  }

  func isReached() async {
    var iterator = reached.stream.makeAsyncIterator()
    await iterator.next()
  }

  func letGo() { mayGo.signal() }

  func readNow(_ sectors: Range<Sector>, into buffer: IOBuffer) throws(IOFailure) -> Bool {
    if sectors.lowerBound == sector {
      reached.continuation.yield()
      mayGo.wait()
    }
    return try underlying.readNow(sectors, into: buffer)
  }
}
