import CKcopyd
import Foundation
import Testing

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// What a notification says of I/O that fails.
struct ErrorTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  static let ignoreErrors: UInt32 = 1 << KCOPYD_IGNORE_ERROR
  static let sequentialWrites: UInt32 = 1 << KCOPYD_WRITE_SEQ

  /// Copies 4 MiB from a source of which 1 MiB is left.
  private func copyShrunkSource(flags: UInt32) throws -> Notified.Call {
    let paths = [
      try folder.file("source", pattern(4 << 20)),
      try folder.file("copy", [UInt8](repeating: 0xEE, count: 4 << 20)),
    ]
    return try withDevices(paths) { devices in
      #expect(truncate(paths[0], 1 << 20) == 0)
      return try withClient { client in
        try copy(
          client, region(devices[0], count: 8192), to: [region(devices[1], count: 8192)],
          flags: flags)
      }
    }
  }

  @Test
  func `what can't be read is said by read_err`() throws {
    #expect(try copyShrunkSource(flags: 0) == .init(readError: 1, writeErrors: 0))
  }

  @Test
  func `ignored errors leave zeros`() throws {
    let call = try copyShrunkSource(flags: Self.ignoreErrors)
    #expect(call == .init(readError: 1, writeErrors: 0))
    let zeros = [UInt8](repeating: 0, count: 3 << 20)
    #expect(try folder.bytes("copy") == pattern(4 << 20)[..<(1 << 20)] + zeros)
  }

  @Test
  func `write_err has the bit of each destination that failed`() throws {
    let bytes = pattern(4096)
    let big = [UInt8](repeating: 0xEE, count: 4096)
    let paths =
      [try folder.file("source", bytes)]
      + (try (0..<32).map { try folder.file("copy\($0)", big) })
    try withDevices(paths) { devices in
      try withClient { client in
        // Destinations 1 and 31 don't have the sectors.
        let dests = devices[1...].enumerated().map { index, device in
          region(device, index == 1 || index == 31 ? 4 : 0, count: 8)
        }
        let call = try copy(client, region(devices[0], count: 8), to: dests)
        #expect(call == .init(readError: 0, writeErrors: 1 << 1 | 1 << 31))
      }
    }
    for index in 0..<32 where index != 1 && index != 31 {
      #expect(try folder.bytes("copy\(index)") == bytes)
    }
  }

  @Test
  func `a device that was opened for reading can't be written`() throws {
    let old = pattern(4096, seed: 2)
    let source = try open(try folder.file("source", pattern(4096)), 0)
    let target = try open(try folder.file("copy", old), 0)
    try withClient { client in
      let call = try copy(client, region(source, count: 8), to: [region(target, count: 8)])
      #expect(call == .init(readError: 0, writeErrors: 1))
    }
    kcopyd_block_device_close(source)
    kcopyd_block_device_close(target)
    #expect(try folder.bytes("copy") == old)
  }

  @Test
  func `writes that aren't issued after an error are all ones`() throws {
    let bytes = pattern(4 << 20)
    let paths = [
      try folder.file("source", bytes),
      try folder.file("copy", [UInt8](repeating: 0, count: 1 << 20)),
    ]
    // Slow enough that all sub-jobs have begun when the third one fails: those behind it are read
    // and never written.
    var throttle: OpaquePointer?
    #expect(kcopyd_throttle_create(100, &throttle) == 0)
    defer { kcopyd_throttle_destroy(throttle) }
    #expect(kcopyd_throttle_set_bytes_per_second(throttle, 4 << 20) == 0)
    try withDevices(paths) { devices in
      try withClient(throttle: throttle) { client in
        let call = try copy(
          client, region(devices[0], count: 8192), to: [region(devices[1], count: 8192)],
          flags: Self.sequentialWrites)
        #expect(call == .init(readError: 0, writeErrors: .max))
      }
    }
    #expect(try folder.bytes("copy") == Array(bytes[..<(1 << 20)]))
  }
}
