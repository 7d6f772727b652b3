import BlockIO
import BlockIOTesting
import Foundation
import NIOCore
import Testing

@testable import NBD

/// A server whose connections are on two threads.
@Suite struct ThreadsTests {
  @Test func aConnectionGoesWhereThereAreFewest() async throws {
    try await TestServer.serving(["disk": MemoryDevice(sectorCount: 64)]) { test in
      let main = test.network.ioLoop
      func helped() -> [Bool] { test.server.registry.connections().map { $0.loop !== main } }
      func isNextHelped() async throws -> Bool {
        let before = helped().count { $0 }
        return try await RawClient.connected(to: test.socket) { client in
          try await client.go()
          return helped().count { $0 } > before
        }
      }
      try await RawClient.connected(to: test.socket) { client in
        try await client.go()
        #expect(helped() == [false])
        for _ in 0..<3 {
          #expect(try await isNextHelped())
          try await test.waitForClients(1)
        }
        try await RawClient.connected(to: test.socket) { second in
          try await second.go()
          #expect(try await !isNextHelped())
        }
        try await test.waitForClients(1)
      }
      try await test.waitForClients(0)
      #expect(try await !isNextHelped())
    }
  }

  /// A client that is still there when the loops end is told nothing more, and harms nothing: its
  /// channel is closed when its loop has gone.
  @Test(arguments: [0, 1])
  func aClientMayBeThereWhenTheLoopsEnd(helpers: Int) async throws {
    let network = try await NetworkLoop.start(helpers: helpers, logger: .silent)
    let folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kcopyd-nbd-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let server = try NBDServer(on: network, logger: .silent)
    let socket = folder.appendingPathComponent("s").path
    try await server.export(MemoryDevice(sectorCount: 64), as: "disk")
    try await server.listen(on: .unix(path: socket))
    try await RawClient.connected(to: socket) { first in
      try await first.go()
      try await RawClient.connected(to: socket) { second in
        try await second.go()
        await network.stop()
        #expect(await second.hearsTheEnd())
      }
      #expect(await first.hearsTheEnd())
    }
  }

  /// The quarters of each sector are written by clients of two threads at once, through reading,
  /// changing and writing back: none undoes the other.
  @Test func whatIsWrittenInPartsStaysWhole() async throws {
    let count = 300
    let device = MemoryDevice(sectorCount: Sector(UInt64(count)))
    try await TestServer.serving(["disk": Pausing(device)]) { test in
      try await withThrowingTaskGroup { group in
        for client in 0..<4 {
          group.addTask {
            try await RawClient.connected(to: test.socket) { raw in
              try await raw.go()
              for sector in 0..<count {
                let data = [UInt8](repeating: UInt8(client + 1), count: 128)
                try await raw.request(
                  .write, offset: UInt64(sector * 512 + client * 128), length: 128, data: data)
                guard await raw.simpleReply()?.error == WireError.none else {
                  Issue.record("a write of client \(client) to sector \(sector) failed")
                  return
                }
              }
            }
          }
        }
        try await group.waitForAll()
      }
    }
    let expected = (1...4).flatMap { [UInt8](repeating: $0, count: 128) }
    for sector in 0..<count {
      let first = Sector(UInt64(sector))
      #expect(device.contents(first..<first + 1) == expected, "sector \(sector)")
    }
  }
}

/// A disk that lets others run before it answers a read.
private final class Pausing: ForwardingDevice {
  let underlying: any BlockDevice

  init(_ underlying: any BlockDevice) { self.underlying = underlying }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await underlying.read(sectors, into: buffer)
    await Task.yield()
  }
}
