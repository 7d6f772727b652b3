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

/// What is copied and zeroed, and what isn't.
struct CopyTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  // 1 page: every page is a sub-job of its own. 100: less than one full sub-job. 1024: eight.
  @Test(arguments: [1, 100, 1024] as [UInt32])
  func `one source to three destinations`(pages: UInt32) throws {
    // A last sector that is only begun, in a last sub-job that is only begun.
    let bytes = pattern(5_000_001)
    let empty = [UInt8](repeating: 0xEE, count: bytes.count)
    let paths =
      [try folder.file("source", bytes)]
      + (try (0..<3).map { try folder.file("copy\($0)", empty) })
    try withDevices(paths) { devices in
      let count = kcopyd_block_device_sectors(devices[0])
      #expect(count == 9766)
      try withClient(pages: pages) { client in
        let call = try copy(
          client, region(devices[0], count: count),
          to: devices[1...].map { region($0, count: count) })
        #expect(call == .success)
      }
      #expect(kcopyd_block_device_flush(devices[1]) == 0)
    }
    for index in 0..<3 { #expect(try folder.bytes("copy\(index)") == bytes) }
  }

  @Test
  func `regions are where they say and nothing around them changes`() throws {
    let bytes = pattern(512 * 100)
    let old = pattern(512 * 50, seed: 2)
    let paths = [try folder.file("source", bytes), try folder.file("copy", old)]
    try withDevices(paths) { devices in
      try withClient { client in
        let call = try copy(
          client, region(devices[0], 70, count: 3), to: [region(devices[1], 11, count: 3)])
        #expect(call == .success)
      }
    }
    var expected = old
    expected.replaceSubrange(11 * 512..<14 * 512, with: bytes[70 * 512..<73 * 512])
    #expect(try folder.bytes("copy") == expected)
  }

  @Test
  func `an empty source is a notification and nothing else`() throws {
    let old = pattern(4096)
    let paths = [try folder.file("source", pattern(4096, seed: 2)), try folder.file("copy", old)]
    try withDevices(paths) { devices in
      try withClient { client in
        let call = try copy(
          client, region(devices[0], count: 0), to: [region(devices[1], count: 8)])
        #expect(call == .success)
      }
    }
    #expect(try folder.bytes("copy") == old)
  }

  @Test
  func `a destination with count 0 is ignored`() throws {
    let bytes = pattern(4096)
    let old = pattern(4096, seed: 2)
    let paths = [
      try folder.file("source", bytes), try folder.file("ignored", old),
      try folder.file("copy", old),
    ]
    try withDevices(paths) { devices in
      try withClient { client in
        let dests = [region(devices[1], count: 0), region(devices[2], count: 8)]
        let call = try copy(client, region(devices[0], count: 8), to: dests)
        #expect(call == .success)
      }
    }
    #expect(try folder.bytes("ignored") == old)
    #expect(try folder.bytes("copy") == bytes)
  }

  @Test
  func `regions are copied by the call`() throws {
    let bytes = pattern(3 << 20)
    let paths = [
      try folder.file("source", bytes),
      try folder.file("copy", [UInt8](repeating: 0, count: bytes.count)),
    ]
    try withDevices(paths) { devices in
      let notified = Notified()
      try withClient { client in
        let count = UInt64(bytes.count / 512)
        // On the heap, so that what is left there can be changed and freed at once.
        let regions = UnsafeMutablePointer<io_region>.allocate(capacity: 2)
        regions[0] = region(devices[0], count: count)
        regions[1] = region(devices[1], count: count)
        let result = kcopyd_copy(
          client, regions, 1, regions + 1, 0, notified.function, notified.context)
        for index in 0..<2 { regions[index] = region(nil, .max, count: .max) }
        regions.deallocate()
        #expect(result == 0)
      }
      #expect(notified.calls == [.success])
    }
    #expect(try folder.bytes("copy") == bytes)
  }

  @Test
  func zero() throws {
    let old = pattern(2_000_000)
    let path = try folder.file("disk", old)
    try withDevices([path]) { devices in
      let notified = Notified()
      try withClient { client in
        var dest = region(devices[0], 10, count: 3000)
        #expect(
          kcopyd_zero(client, 1, &dest, 0, notified.function, notified.context) == 0)
      }
      #expect(notified.calls == [.success])
    }
    var expected = old
    expected.replaceSubrange(10 * 512..<3010 * 512, with: repeatElement(0, count: 3000 * 512))
    #expect(try folder.bytes("disk") == expected)
  }

  @Test
  func `a device that was closed too early is closed when its jobs are over`() throws {
    let bytes = pattern(3 << 20)
    let source = try folder.file("source", bytes)
    let target = try folder.file("copy", [UInt8](repeating: 0, count: bytes.count))
    let notified = Notified()
    try withClient { client in
      let devices = [try open(source, 0), try open(target)]
      var from = region(devices[0], count: 6144)
      var dest = region(devices[1], count: 6144)
      let result = kcopyd_copy(client, &from, 1, &dest, 0, notified.function, notified.context)
      for device in devices { kcopyd_block_device_close(device) }
      #expect(result == 0)
    }
    #expect(notified.calls == [.success])
    #expect(try folder.bytes("copy") == bytes)
  }

  @Test
  func `bypassing the page cache, where that is possible`() throws {
    let bytes = pattern(2_000_001)
    let paths = [
      try folder.file("source", bytes),
      try folder.file("copy", [UInt8](repeating: 0xEE, count: bytes.count)),
    ]
    var devices: [OpaquePointer] = []
    defer { for device in devices { kcopyd_block_device_close(device) } }
    for path in paths {
      var device: OpaquePointer?
      let flags = KCOPYD_OPEN_WRITE | KCOPYD_OPEN_DIRECT | KCOPYD_OPEN_SHARED
      let result = kcopyd_block_device_open(path, flags, &device)
      // A file system that can't refuses.
      if result == -EINVAL { return }
      #expect(result == 0)
      devices.append(try #require(device))
      #if os(Linux)
        #expect(isOpenDirectly(path))
      #endif
    }
    try withClient { client in
      let count = kcopyd_block_device_sectors(devices[0])
      let call = try copy(
        client, region(devices[0], count: count), to: [region(devices[1], count: count)])
      #expect(call == .success)
    }
    #expect(try folder.bytes("copy") == bytes)
  }
}

#if os(Linux)
  /// Whether this process has the file open with `O_DIRECT`.
  private func isOpenDirectly(_ path: String) -> Bool {
    let files = FileManager.default
    let numbers = (try? files.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
    return numbers.contains { number in
      guard (try? files.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(number)")) == path,
        let info = try? String(contentsOfFile: "/proc/self/fdinfo/\(number)", encoding: .utf8),
        let match = info.firstMatch(of: /flags:\s*([0-7]+)/), let flags = Int(match.1, radix: 8)
      else { return false }
      // The value differs between processors.
      #if arch(arm64) || arch(arm)
        return flags & 0o200000 != 0
      #else
        return flags & 0o40000 != 0
      #endif
    }
  }
#endif
