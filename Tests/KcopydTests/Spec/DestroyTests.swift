import BlockIO
import BlockIOTesting
import Foundation
import Kcopyd
import Testing

/// On a real loop, because in a simulation whoever destroys a client and its callbacks share a
/// thread.
@Suite struct DestroyTests {
  @Test func `destroy waits until the callback has returned`() async throws {
    let loop = try IOLoop.start(backend: .threads)
    defer { loop.stop() }
    let client = try KcopydClient(on: loop)
    let disks = (0..<2).map { _ in MemoryDevice(sectorCount: 8) }
    let hasBegun = Locked(false)
    let hasReturned = Locked(false)
    try client.copy(
      from: IORegion(disks[0], count: 8), to: [IORegion(disks[1], count: 8)]
    ) { _ in
      hasBegun.withLock { $0 = true }
      // Long enough that a destroy which doesn't wait is over first.
      usleep(50_000)
      hasReturned.withLock { $0 = true }
    }
    while !hasBegun.value { await Task.yield() }
    await client.destroy()
    #expect(hasReturned.value)
  }
}
