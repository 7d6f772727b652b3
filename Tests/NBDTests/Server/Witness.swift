import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// A client that does what it should while another one doesn't, and checks that it is served.
struct Witness {
  let client: RawClient
  let device: MemoryDevice

  /// Runs `body` beside a connected witness of the export 'disk', which `device` is behind.
  static func watching(
    _ test: TestServer, _ device: MemoryDevice, _ body: (Witness) async throws -> Void
  ) async throws {
    try await RawClient.connected(to: test.socket) { client in
      try await client.go(structured: false)
      let witness = Witness(client: client, device: device)
      try await witness.isServed()
      try await body(witness)
      try await witness.isServed()
    }
  }

  /// Has something read, written and read again, and all of it has to be right.
  func isServed(sourceLocation: SourceLocation = #_sourceLocation) async throws {
    let before = device.contents(0..<16)
    try await expect(bytes: before, sourceLocation)
    let changed = before[512..<1536].map { ~$0 }
    try await client.request(.write, cookie: 2, offset: 512, length: 1024, data: changed)
    let written = await client.simpleReply()
    #expect(written?.error == WireError.none, sourceLocation: sourceLocation)
    #expect(written?.cookie == 2, sourceLocation: sourceLocation)
    try await expect(
      bytes: Array(before[..<512]) + changed + Array(before[1536...]), sourceLocation)
  }

  private func expect(bytes: some Sequence<UInt8>, _ sourceLocation: SourceLocation) async throws {
    try await client.request(.read, cookie: 1, offset: 0, length: 8192)
    let reply = await client.simpleReply()
    try #require(reply?.error == WireError.none, sourceLocation: sourceLocation)
    #expect(reply?.cookie == 1, sourceLocation: sourceLocation)
    let heard = await client.hear(8192)
    #expect(heard.readableBytesView.elementsEqual(bytes), sourceLocation: sourceLocation)
  }
}

/// A disk in memory, no sector of it like its neighbours.
func numberedDisk(_ sectors: Sector = 2048) -> MemoryDevice {
  // No multiple of a sector, so that it begins elsewhere in each.
  let tile = (0..<65521).map { UInt8(truncatingIfNeeded: $0 / 512 &+ $0) }
  var content: [UInt8] = []
  content.reserveCapacity(Int(sectors.bytes) + tile.count)
  while content.count < Int(sectors.bytes) { content += tile }
  let device = MemoryDevice(sectorCount: sectors)
  device.fill(content[..<Int(sectors.bytes)])
  return device
}

extension TestServer {
  /// Waits, however long it takes, until so many clients use the export 'disk'.
  func waitForClients(_ count: Int) async throws {
    let export = try #require(server.registry.exports["disk"])
    while await server.connectionCount(of: export) != count {
      try await Task.sleep(for: .milliseconds(5))
    }
  }

  /// Waits, however long it takes, until no request holds memory.
  func waitForIdleMemory() async throws {
    while server.budget.taken > 0 { try await Task.sleep(for: .milliseconds(5)) }
  }
}
