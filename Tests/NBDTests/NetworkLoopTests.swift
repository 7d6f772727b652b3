import BlockIO
import BlockIOTesting
import Foundation
import NIOCore
import Testing

@testable import NBD

/// Network and disk on one thread.
@Suite struct NetworkLoopTests {
  static let backends: [BackendChoice] = {
    guard let loop = try? IOLoop.start(backend: .uring) else { return [.threads] }
    loop.stop()
    return [.uring, .threads]
  }()

  @Test(arguments: backends)
  func filesTimersAndThreads(backend: BackendChoice) async throws {
    let path = NSTemporaryDirectory() + "/nbd-loop-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: path) }
    let network = try await NetworkLoop.start(backend: backend)
    let loop = network.ioLoop
    let length: Sector = 64
    for direct in [DirectChoice.off, .whenPossible] {
      try await Task(executorPreference: loop) {
        #expect(loop.isCurrent && network.eventLoop.inEventLoop)
        try? FileManager.default.removeItem(atPath: path)
        let device = try FileDevice.create(
          path, byteCount: length.bytes, direct: direct, on: loop)
        let pages = try PagePool.lend(holding: length)
        let buffer = pages.buffer.slice(.zero, length)
        let pattern = Pattern("loop").bytes(.zero..<length)
        buffer.load(from: pattern)
        try await device.write(.zero..<length, from: buffer)
        try await device.flush()
        #expect(loop.isCurrent)
        buffer.clear()
        try await device.read(.zero..<length, into: buffer)
        var read = [UInt8](repeating: 0, count: pattern.count)
        buffer.store(into: &read)
        #expect(read == pattern)
        let order = Locked<[Int]>([])
        await withTaskGroup(of: Void.self) { group in
          for milliseconds in [30, 5, 15] {
            group.addTask {
              let start = loop.now
              await loop.sleep(for: .milliseconds(milliseconds))
              #expect(start.duration(to: loop.now) >= .milliseconds(milliseconds))
              order.withLock { $0.append(milliseconds) }
            }
          }
        }
        #expect(order.value == [5, 15, 30])
        #expect(await loop.blocking { !loop.isCurrent })
      }.value
    }
    await network.stop()
  }

  /// What can end at once ends within the call, on the thread of the network.
  @Test(arguments: backends)
  func immediateRequests(backend: BackendChoice) async throws {
    let network = try await NetworkLoop.start(backend: backend)
    let loop = network.ioLoop
    let device = MemoryDevice(sectorCount: 8)
    device.fill(repeatElement(7, count: 4096))
    let hasEnded = try await network.eventLoop.submit {
      let pages = Locked<UInt8>(0)
      Task.immediate(executorPreference: loop) {
        guard let lent = try? PagePool.lend(holding: 8) else { return }
        try? await device.read(0..<8, into: lent.buffer)
        pages.withLock { $0 = lent.buffer.withBytes { $0.unsafeLoad(as: UInt8.self) } }
      }
      return pages.value == 7
    }.get()
    #expect(hasEnded)
    await network.stop()
  }
}
