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

/// What is refused, and how.
struct ArgumentTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  // MARK: Devices

  @Test
  func `files that can't be opened`() throws {
    var device: OpaquePointer?
    #expect(kcopyd_block_device_open(folder.path("none"), 0, &device) == -ENOENT)
    #expect(kcopyd_block_device_open(folder.url.path, 0, &device) == -EISDIR)
    #expect(mkfifo(folder.path("pipe"), 0o600) == 0)
    #expect(kcopyd_block_device_open(folder.path("pipe"), 0, &device) == -EINVAL)
    let noText: [CChar] = [-1, -2, 0]
    #expect(kcopyd_block_device_open(noText, 0, &device) == -EILSEQ)
    let file = try folder.file("file", [])
    #expect(kcopyd_block_device_open(file, 1 << 3, &device) == -EINVAL)
    #expect(kcopyd_block_device_open(nil, 0, &device) == -EINVAL)
    #expect(kcopyd_block_device_open(file, 0, nil) == -EINVAL)
    #expect(device == nil)
  }

  @Test
  func `NULL where a handle is to be`() {
    kcopyd_block_device_close(nil)
    kcopyd_throttle_destroy(nil)
    kcopyd_client_destroy(nil)
    kcopyd_do_callback(nil, 0, 0)
    #expect(kcopyd_block_device_sectors(nil) == 0)
    #expect(kcopyd_block_device_flush(nil) == -EINVAL)
    #expect(kcopyd_throttle_create(50, nil) == -EINVAL)
    #expect(kcopyd_throttle_set_percent(nil, 50) == -EINVAL)
    #expect(kcopyd_throttle_set_bytes_per_second(nil, 50) == -EINVAL)
    #expect(kcopyd_client_create(1024, nil) == -EINVAL)
    #expect(kcopyd_client_flush(nil) == -EINVAL)
    #expect(kcopyd_prepare_callback(nil, Notified().function, nil) == nil)
  }

  // MARK: Clients

  @Test
  func `a client needs pages`() {
    var client: OpaquePointer?
    #expect(kcopyd_client_create(0, &client) == -EINVAL)
    #expect(client == nil)
  }

  /// Whether the kernel refuses a reserve that is larger than all its memory. Where it doesn't,
  /// asking for one would really take all memory.
  static let refusesTooMuch: Bool = {
    let mode = try? String(contentsOfFile: "/proc/sys/vm/overcommit_memory", encoding: .utf8)
    return mode.map { $0.prefix(1) != "1" } ?? false
  }()

  @Test(.enabled(if: refusesTooMuch, "the system promises more memory than it has"))
  func `16 TiB of pages are too many`() {
    var client: OpaquePointer?
    #expect(kcopyd_client_create(.max, &client) == -ENOMEM)
    #expect(client == nil)
  }

  // MARK: Jobs

  /// Calls kcopyd_copy, which is to refuse and never to notify.
  private func refusal(
    _ from: io_region?, _ dests: [io_region], count: Int? = nil, flags: UInt32 = 0
  ) throws -> CInt {
    let notified = Notified()
    let result = try withClient { client in
      var dests = dests
      let count = UInt32(count ?? dests.count)
      guard var from else {
        return kcopyd_copy(
          client, nil, count, &dests, flags, notified.function, notified.context)
      }
      return kcopyd_copy(
        client, &from, count, &dests, flags, notified.function, notified.context)
    }
    #expect(notified.calls.isEmpty)
    return result
  }

  @Test
  func `jobs that make no sense`() throws {
    let old = pattern(1 << 20)
    let source = try folder.file("source", pattern(1 << 20, seed: 2))
    let target = try folder.file("target", old)
    // `throws`: the compiler doesn't see it in the macros below.
    try withDevices([source, target]) { (devices) throws in
      let from = region(devices[0], count: 8)
      let dest = region(devices[1], count: 8)
      #expect(try refusal(nil, [dest]) == -EINVAL)
      #expect(try refusal(region(nil, count: 8), [dest]) == -EINVAL)
      #expect(try refusal(from, [region(nil, count: 8)]) == -EINVAL)
      #expect(try refusal(from, [dest], count: 0) == -EINVAL)
      let many = (0..<33).map { region(devices[1], UInt64($0) * 8, count: 8) }
      #expect(try refusal(from, many) == -EINVAL)
      #expect(try refusal(from, [region(devices[1], count: 9)]) == -EINVAL)
      #expect(try refusal(from, [dest, region(devices[1], 7, count: 8)]) == -EINVAL)
      #expect(try refusal(region(devices[0], .max, count: 8), [dest]) == -EINVAL)
      // The number of a flag instead of its bit, and a bit of the engine that isn't for C.
      #expect(try refusal(from, [dest], flags: UInt32(KCOPYD_IGNORE_ERROR)) == -EINVAL)
      #expect(try refusal(from, [dest], flags: 1 << 16) == -EINVAL)
    }
    #expect(try folder.bytes("target") == old)
  }

  @Test
  func `other NULLs`() throws {
    try withDevices([try folder.file("disk", pattern(8192))]) { devices in
      try withClient { client in
        let fn = Notified().function
        var from = region(devices[0], count: 8)
        var dest = region(devices[0], 8, count: 8)
        #expect(kcopyd_copy(nil, &from, 1, &dest, 0, fn, nil) == -EINVAL)
        #expect(kcopyd_copy(client, &from, 1, nil, 0, fn, nil) == -EINVAL)
        #expect(kcopyd_copy(client, &from, 1, &dest, 0, nil, nil) == -EINVAL)
        #expect(kcopyd_zero(nil, 1, &dest, 0, fn, nil) == -EINVAL)
        #expect(kcopyd_zero(client, 1, nil, 0, fn, nil) == -EINVAL)
        #expect(kcopyd_zero(client, 1, &dest, 0, nil, nil) == -EINVAL)
        #expect(kcopyd_zero(client, 33, &dest, 0, fn, nil) == -EINVAL)
        #expect(kcopyd_zero(client, 1, &dest, 1, fn, nil) == -EINVAL)
        #expect(kcopyd_prepare_callback(client, nil, nil) == nil)
      }
    }
    #expect(try folder.bytes("disk") == pattern(8192))
  }
}
