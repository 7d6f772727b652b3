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
      let slow = SlowDisk(legs[0], loop)
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
      // Nor afterwards, though all is in sync.
      await #expect(throws: IOFailure.self) { try await mirror.put("later", 42..<44) }
      await #expect(throws: IOFailure.self) { _ = try await mirror.contents(42..<44) }
    }
  }

  /// Requests to a region in use have nothing to wait for; a suspend waits for them all the same.
  @Test(arguments: [true, false])
  func aSuspendWaitsForWhatIsUnderWay(isRead: Bool) throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let slow = SlowDisk(legs[0], loop)
      let mirror = try MirrorDevice(
        legs: [MirrorLeg(slow), MirrorLeg(legs[1])], log: nil,
        parameters: MirrorParameters(regionSize: try #require(RegionSize(32))), on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("in use", 40..<50)
      slow.isNextSlow.withLock { $0 = true }
      let request = Task(executorPreference: loop) {
        if isRead {
          _ = try await mirror.contents(42..<44)
        } else {
          try await mirror.put("slow", 42..<44)
        }
      }
      await loop.sleep(for: .milliseconds(20))
      #expect(slow.isBusy.value)
      await mirror.suspend()
      #expect(!slow.isBusy.value)
      try await request.value
    }
  }
}

/// A disk of which one read or write takes its time.
private final class SlowDisk: ForwardingDevice {
  let underlying: any BlockDevice
  private let loop: IOLoop
  let isNextSlow = Locked(false)
  /// Whether that is under way.
  let isBusy = Locked(false)

  init(_ disk: SimulatedDisk, _ loop: IOLoop) { (underlying, self.loop) = (disk, loop) }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    await waitIfSlow()
    try await underlying.read(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    await waitIfSlow()
    try await underlying.write(sectors, from: buffer, options: options)
  }

  private func waitIfSlow() async {
    let isSlow = isNextSlow.withLock { value in
      defer { value = false }
      return value
    }
    guard isSlow else { return }
    isBusy.withLock { $0 = true }
    await loop.sleep(for: .milliseconds(100))
    isBusy.withLock { $0 = false }
  }
}
