import CKcopyd
import Dispatch
import Foundation
import Synchronization
import Testing

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// When, where and how often notifications come.
struct NotificationTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  /// Opens a disk of 64 KiB for jobs from its first sectors to others.
  private func openDisk() throws -> OpaquePointer {
    try open(try folder.file("disk", pattern(64 << 10)))
  }

  private static func start(
    _ client: OpaquePointer, _ device: OpaquePointer, _ notified: Notified, count: UInt64 = 8
  ) -> CInt {
    var from = region(device, count: count)
    var dest = region(device, 64, count: count)
    return kcopyd_copy(client, &from, 1, &dest, 0, notified.function, notified.context)
  }

  @Test
  func `all clients are notified on one thread, which isn't the caller's`() throws {
    let disk = try openDisk()
    let threads = Mutex<Set<Int>>([])
    let notified = Notified {
      _ = threads.withLock { $0.insert(currentThread()) }
    }
    for _ in 0..<2 {
      try withClient { client in
        for count in 0..<8 as Range<UInt64> {
          #expect(Self.start(client, disk, notified, count: count) == 0)
        }
      }
    }
    #expect(notified.calls.count == 16)
    #expect(threads.withLock { $0.count } == 1)
    #expect(!threads.withLock { $0.contains(currentThread()) })
    kcopyd_block_device_close(disk)
  }

  // Started on the library's own thread, where nothing but the rule keeps them from being called
  // at once. An empty job is the one most easily finished too soon.
  @Test(arguments: [0, 8] as [UInt64])
  func `a job started by a notification isn't notified within the call`(count: UInt64) throws {
    let disk = Handle(pointer: try openDisk())
    let isStarting = Atomic<Bool>(false)
    let second = Notified {
      let isWithin = isStarting.load(ordering: .relaxed)
      #expect(!isWithin)
    }
    try withClient { client in
      let client = Handle(pointer: client)
      let first = Notified {
        isStarting.store(true, ordering: .relaxed)
        #expect(Self.start(client.pointer, disk.pointer, second, count: count) == 0)
        isStarting.store(false, ordering: .relaxed)
      }
      #expect(Self.start(client.pointer, disk.pointer, first) == 0)
      let calls = [try first.wait(), try second.wait()]
      #expect(calls == [.success, .success])
    }
    kcopyd_block_device_close(disk.pointer)
  }

  @Test
  func `destroying waits for every notification`() throws {
    let disk = try openDisk()
    let slow = Notified { usleep(2000) }
    try withClient { client in
      for _ in 0..<20 { #expect(Self.start(client, disk, slow) == 0) }
    }
    #expect(slow.calls == Array(repeating: .success, count: 20))
    kcopyd_block_device_close(disk)
  }

  @Test
  func `destroying waits for a prepared callback and lets nothing new start`() throws {
    let disk = Handle(pointer: try openDisk())
    var created: OpaquePointer?
    #expect(kcopyd_client_create(1024, &created) == 0)
    let client = Handle(pointer: try #require(created))
    let other = Notified()
    let notified = Notified {
      #expect(Self.start(client.pointer, disk.pointer, other) == -ESHUTDOWN)
    }
    let token = kcopyd_prepare_callback(client.pointer, notified.function, notified.context)
    let isDestroyed = DispatchSemaphore(value: 0)
    Thread.detachNewThread {
      kcopyd_client_destroy(client.pointer)
      isDestroyed.signal()
    }
    // Until the other thread has got that far.
    while let more = kcopyd_prepare_callback(client.pointer, other.function, other.context) {
      kcopyd_do_callback(more, 0, 0)
    }
    #expect(isDestroyed.wait(timeout: .now() + 0.05) == .timedOut)
    kcopyd_do_callback(token, 0, 0)
    #expect(isDestroyed.wait(timeout: .now() + 60) == .success)
    #expect(notified.calls == [.success])
    kcopyd_block_device_close(disk.pointer)
  }

  @Test
  func `a prepared callback brings its values, and flushing waits for it`() throws {
    let notified = Notified()
    try withClient { client in
      for (readError, writeErrors) in [(0, 0), (1, 5), (-7, .max)] as [(CInt, UInt32)] {
        let token = try #require(
          kcopyd_prepare_callback(client, notified.function, notified.context))
        kcopyd_do_callback(token, readError, writeErrors)
        #expect(kcopyd_client_flush(client) == 0)
        #expect(
          notified.calls.last == .init(readError: readError == 0 ? 0 : 1, writeErrors: writeErrors))
      }
    }
    #expect(notified.calls.count == 3)
  }

  @Test
  func `what would wait for itself is refused in a notification`() throws {
    let disk = Handle(pointer: try openDisk())
    try withClient { client in
      let client = Handle(pointer: client)
      let notified = Notified {
        #expect(kcopyd_client_flush(client.pointer) == -EDEADLK)
        #expect(kcopyd_block_device_flush(disk.pointer) == -EDEADLK)
      }
      #expect(Self.start(client.pointer, disk.pointer, notified) == 0)
      _ = try notified.wait()
    }
    kcopyd_block_device_close(disk.pointer)
  }

  @Test
  func `destroying a client in a notification ends the process, and says why`() async throws {
    let result = await #expect(
      processExitsWith: .failure, observing: [\.standardErrorContent]
    ) {
      try withClient { client in
        let client = Handle(pointer: client)
        let notified = Notified { kcopyd_client_destroy(client.pointer) }
        let token = kcopyd_prepare_callback(
          client.pointer, notified.function, notified.context)
        kcopyd_do_callback(token, 0, 0)
        _ = try notified.wait()
      }
    }
    let message = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(message.contains("kcopyd_client_destroy was called from a notification"))
  }

  // In a process of its own, because the loop is started once, and here by who knows which thread.
  @Test
  func `the library's threads get no signals, and the caller's thread keeps them`() async throws {
    await #expect(processExitsWith: .success) {
      let deliverable = Mutex<Bool?>(nil)
      let notified = Notified { deliverable.withLock { $0 = !isBlocked(SIGTERM) } }
      var none = sigset_t()
      sigemptyset(&none)
      pthread_sigmask(SIG_SETMASK, &none, nil)
      try withClient { client in
        let token = kcopyd_prepare_callback(client, notified.function, notified.context)
        kcopyd_do_callback(token, 0, 0)
      }
      let isBlockedHere = isBlocked(SIGTERM)
      #expect(!isBlockedHere)
      #expect(deliverable.withLock { $0 } == false)
    }
  }
}

private func isBlocked(_ signal: CInt) -> Bool {
  var mask = sigset_t()
  pthread_sigmask(SIG_BLOCK, nil, &mask)
  return sigismember(&mask, signal) == 1
}

private func currentThread() -> Int {
  // An integer or a pointer, by system; equal for the same thread.
  pthread_self().hashValue
}
