import CKcopyd
import Dispatch
import Foundation
import Synchronization
import Testing

/// A folder for one test, gone with its last reference.
final class TemporaryFolder: Sendable {
  let url: URL

  init() throws {
    url = FileManager.default.temporaryDirectory.appending(path: "kcopyd-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(at: url) }

  func path(_ name: String) -> String { url.appending(path: name).path }

  /// Makes a file of these bytes and returns its path.
  func file(_ name: String, _ bytes: [UInt8]) throws -> String {
    try Data(bytes).write(to: url.appending(path: name))
    return path(name)
  }

  func bytes(_ name: String) throws -> [UInt8] {
    [UInt8](try Data(contentsOf: url.appending(path: name)))
  }
}

/// Bytes of which no two sectors are alike.
func pattern(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
  var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
  var bytes: [UInt8] = []
  bytes.reserveCapacity(count + 8)
  while bytes.count < count {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    withUnsafeBytes(of: state) { bytes.append(contentsOf: $0) }
  }
  return Array(bytes[..<count])
}

/// A handle of the C interface as tests hold it.
//
// @unchecked Sendable: the interface's handles may be used on any thread.
struct Handle: @unchecked Sendable {
  let pointer: OpaquePointer
}

/// Opens a device, or fails the test.
func open(_ path: String, _ flags: UInt32 = KCOPYD_OPEN_WRITE) throws -> OpaquePointer {
  var device: OpaquePointer?
  #expect(kcopyd_block_device_open(path, flags, &device) == 0)
  return try #require(device)
}

/// Opens devices for `body` and closes them.
func withDevices<R>(_ paths: [String], _ body: ([OpaquePointer]) throws -> R) throws -> R {
  let devices = try paths.map { try open($0) }
  defer { for device in devices { kcopyd_block_device_close(device) } }
  return try body(devices)
}

/// Creates a client for `body` and destroys it.
func withClient<R>(
  pages: UInt32 = 1024, throttle: OpaquePointer? = nil, _ body: (OpaquePointer) throws -> R
) throws -> R {
  var client: OpaquePointer?
  #expect(kcopyd_client_create_throttled(pages, throttle, &client) == 0)
  let created = try #require(client)
  defer { kcopyd_client_destroy(created) }
  return try body(created)
}

func region(_ device: OpaquePointer?, _ sector: UInt64 = 0, count: UInt64) -> io_region {
  io_region(bdev: device, sector: sector, count: count)
}

/// Collects notifications: pass `function` and `context`.
final class Notified: Sendable {
  struct Call: Equatable {
    var readError: CInt
    var writeErrors: UInt32
    static let success = Call(readError: 0, writeErrors: 0)
  }

  /// What is done in each call, before it is counted.
  private let body: @Sendable () -> Void
  private let received = Mutex<[Call]>([])
  private let semaphore = DispatchSemaphore(value: 0)

  init(_ body: @escaping @Sendable () -> Void = {}) { self.body = body }

  var calls: [Call] { received.withLock { $0 } }

  /// The tests hold the object until they have destroyed the client.
  var context: UnsafeMutableRawPointer { Unmanaged.passUnretained(self).toOpaque() }

  let function: kcopyd_notify_fn = { readError, writeErrors, context in
    guard let context else {
      Issue.record("called without its context")
      return
    }
    let notified = Unmanaged<Notified>.fromOpaque(context).takeUnretainedValue()
    notified.body()
    notified.received.withLock {
      $0.append(Call(readError: readError, writeErrors: writeErrors))
    }
    notified.semaphore.signal()
  }

  /// Waits for one more call and returns the latest. The limit only ends a broken test.
  func wait() throws -> Call {
    try #require(semaphore.wait(timeout: .now() + 60) == .success, "no notification came")
    return try #require(calls.last)
  }
}

/// Copies and waits for the notification.
func copy(
  _ client: OpaquePointer, _ from: io_region, to dests: [io_region], flags: UInt32 = 0
) throws -> Notified.Call {
  var from = from
  var dests = dests
  let notified = Notified()
  let result = kcopyd_copy(
    client, &from, UInt32(dests.count), &dests, flags, notified.function, notified.context)
  #expect(result == 0)
  let call = try notified.wait()
  #expect(notified.calls.count == 1)
  return call
}
