import CKcopyd
import Testing

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// That limits arrive where they are enforced. All bounds are lower ones: a slow machine passes.
struct ThrottleTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  /// Starts copying `bytes` with the throttle, runs `meanwhile`, waits for the end.
  private func time(
    copying bytes: Int, _ throttle: OpaquePointer, meanwhile: (Notified) -> Void = { _ in }
  ) throws -> Duration {
    let paths = [
      try folder.file("source", [UInt8](repeating: 0xEE, count: bytes)),
      try folder.file("copy", [UInt8](repeating: 0, count: bytes)),
    ]
    return try withDevices(paths) { devices in
      let clock = ContinuousClock()
      let start = clock.now
      let notified = Notified()
      try withClient(throttle: throttle) { client in
        var from = region(devices[0], count: UInt64(bytes / 512))
        var dest = region(devices[1], count: UInt64(bytes / 512))
        #expect(
          kcopyd_copy(client, &from, 1, &dest, 0, notified.function, notified.context) == 0)
        meanwhile(notified)
      }
      #expect(notified.calls == [.success])
      return clock.now - start
    }
  }

  private func makeThrottle(percent: UInt32) throws -> OpaquePointer {
    var throttle: OpaquePointer?
    #expect(kcopyd_throttle_create(percent, &throttle) == 0)
    return try #require(throttle)
  }

  @Test
  func `bytes per second`() throws {
    let throttle = try makeThrottle(percent: 100)
    #expect(kcopyd_throttle_set_bytes_per_second(throttle, 2 << 20) == 0)
    // The first half MiB is free, the other two cost a quarter of a second each.
    #expect(try time(copying: 3 << 19, throttle) >= .milliseconds(400))
    kcopyd_throttle_destroy(throttle)
  }

  @Test
  func `a limit may be lifted while a job runs, and set before that is lost`() throws {
    let throttle = try makeThrottle(percent: 100)
    // At this speed it would take weeks.
    #expect(kcopyd_throttle_set_bytes_per_second(throttle, 1) == 0)
    _ = try time(copying: 2 << 20, throttle) { _ in
      #expect(kcopyd_throttle_set_bytes_per_second(throttle, 0) == 0)
    }
    kcopyd_throttle_destroy(throttle)
  }

  @Test(arguments: [true, false])
  func `part of the time`(setLater: Bool) throws {
    let throttle = try makeThrottle(percent: setLater ? 100 : 0)
    if setLater { #expect(kcopyd_throttle_set_percent(throttle, 0) == 0) }
    // 32 pieces: as soon as I/O has taken a millisecond, each that follows waits a second.
    _ = try time(copying: 16 << 20, throttle) { notified in
      usleep(500_000)
      #expect(notified.calls.isEmpty)
      #expect(kcopyd_throttle_set_percent(throttle, 100) == 0)
    }
    kcopyd_throttle_destroy(throttle)
  }

  @Test
  func `clients keep a throttle that was given up`() throws {
    let throttle = try makeThrottle(percent: 100)
    #expect(kcopyd_throttle_set_bytes_per_second(throttle, 2 << 20) == 0)
    let duration = try time(copying: 3 << 19, throttle) { _ in kcopyd_throttle_destroy(throttle) }
    #expect(duration >= .milliseconds(400))
  }
}
