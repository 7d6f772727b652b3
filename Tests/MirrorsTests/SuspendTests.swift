import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// Requests that come while a mirror is being suspended.
@Suite struct SuspendTests {
  /// A suspend waits for a write; whatever comes meanwhile is refused, also to a region in use.
  @Test func nothingIsLetInWhileASuspendWaits() throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let slow = SlowWriter(legs[0], loop)
      let log = SimulatedDisk("log", sectorCount: 8, loop: loop)
      let mirror = try MirrorDevice(
        legs: [MirrorLeg(slow), MirrorLeg(legs[1])], log: log,
        parameters: MirrorParameters(regionSize: try #require(RegionSize(32))), on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("in use", 40..<50)
      slow.isNextSlow.withLock { $0 = true }
      let write = Task(executorPreference: loop) { try await mirror.put("slow", 40..<50) }
      await loop.sleep(for: .milliseconds(20))
      let suspend = Task(executorPreference: loop) { await mirror.suspend() }
      await loop.sleep(for: .milliseconds(20))
      await #expect(throws: IOFailure.self) { try await mirror.put("late", 42..<44) }
      await #expect(throws: IOFailure.self) { _ = try await mirror.contents(42..<44) }
      try await write.value
      await suspend.value
      #expect(legs[0].contents == legs[1].contents)
    }
  }
}

/// A disk of which one write takes its time.
private final class SlowWriter: ForwardingDevice {
  let underlying: any BlockDevice
  private let loop: IOLoop
  let isNextSlow = Locked(false)

  init(_ disk: SimulatedDisk, _ loop: IOLoop) { (underlying, self.loop) = (disk, loop) }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    let isSlow = isNextSlow.withLock { value in
      defer { value = false }
      return value
    }
    if isSlow { await loop.sleep(for: .milliseconds(100)) }
    try await underlying.write(sectors, from: buffer, options: options)
  }
}
