import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Synchronization
import Testing

/// When a region that has gone idle is called clean.
@Suite struct CleaningTests {
  /// Each time it goes idle, and counted from the end of the last write.
  @Test func aRegionIsCalledCleanEachTimeAfterItsLastWrite() throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let log = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      let delay = parameters.conduct.cleaningDelay
      let mirror = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: log, parameters: parameters, on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      for round in 0..<3 {
        #expect(log.contents[1024] == 0xff, "round \(round)")
        try await mirror.put("new", 40..<50)
        #expect(log.contents[1024] == 0xfd, "round \(round)")
        // Written once more before it is due: it isn't then, but that much later.
        await loop.sleep(for: delay * 0.8)
        try await mirror.put("newer", 40..<50)
        await loop.sleep(for: delay * 0.6)
        #expect(log.contents[1024] == 0xfd, "round \(round)")
        await loop.sleep(for: delay)
      }
      #expect(log.contents[1024] == 0xff)
      await mirror.suspend()
    }
  }

  /// A write that is done on the spot while the legs are flushed isn't covered by that flush, though
  /// it is over before the flush is.
  @Test func aWriteOnTheSpotWithinTheFlushKeepsItsRegionMarked() throws {
    try simulate { loop in
      let quick = QuickDisk(MemoryDevice(sectorCount: 512))
      let log = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      let delay = parameters.conduct.cleaningDelay
      let mirror = try MirrorDevice(
        legs: [MirrorLeg(quick), MirrorLeg(QuickDisk(MemoryDevice(sectorCount: 512)))], log: log,
        parameters: parameters, on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("new", 40..<50)
      #expect(log.contents[1024] == 0xfd)
      quick.atFlush.withLock { $0 = { try? await mirror.put("within", 40..<50) } }
      await loop.sleep(for: delay * 1.5)
      #expect(quick.atFlush.withLock { $0 == nil }, "the legs were flushed")
      #expect(log.contents[1024] == 0xfd)
      await loop.sleep(for: delay * 2)
      #expect(log.contents[1024] == 0xff)
      await mirror.suspend()
    }
  }
}

/// A disk that is written on the spot, and has something done once while it is flushed.
private final class QuickDisk: ForwardingDevice {
  let underlying: any BlockDevice
  let atFlush = Mutex<(@Sendable () async -> Void)?>(nil)

  init(_ underlying: any BlockDevice) { self.underlying = underlying }

  func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool {
    try underlying.writeNow(sectors, from: buffer, options: options)
  }

  func flush() async throws(IOFailure) {
    let body = atFlush.withLock { body in
      defer { body = nil }
      return body
    }
    await body?()
    try await underlying.flush()
  }
}
