import BlockIO
import SystemPackage
import Testing

@testable import DeviceMapper

/// Requests that are done in the calling thread, or not at all.
@Suite struct WithoutWaitingTests {
  private func withMapper(
    _ body: @escaping @Sendable (DeviceMapper, MemoryDevice, IOBuffer) async throws -> Void
  ) async throws {
    let loop = try IOLoop.start()
    let memory = MemoryDevice(sectorCount: 64)
    let mapper = DeviceMapper(DeviceOpener { (_, _) in memory }, on: loop)
    let pages = try PagePool.lend(holding: 8)
    try await body(mapper, memory, pages.buffer.slice(0, 8))
    loop.stop()
  }

  private func held(_ memory: MemoryDevice, _ sectors: Range<Sector>) -> [UInt8] {
    let contents: (Range<Sector>) -> [UInt8] = memory.contents
    return contents(sectors)
  }

  @Test func aLinearTargetPassesThemOn() async throws {
    try await withMapper { mapper, memory, buffer in
      try await mapper.create("m", table: "0 32 linear /dev/a 16")
      let device = try await mapper.open("m").device
      buffer.load(from: [UInt8](repeating: 7, count: 4096))
      #expect(device.writeNow(8..<16, from: buffer, options: []))
      #expect(held(memory, 24..<32) == [UInt8](repeating: 7, count: 4096))
      buffer.clear()
      #expect(device.readNow(8..<16, into: buffer))
      #expect(!buffer.isZero)
      let statistics = try await mapper.info("m").statistics
      #expect(statistics.reads.operations == 1 && statistics.reads.bytes == 4096)
      #expect(statistics.writes.operations == 1 && statistics.inFlight == 0)
      // Beyond the end of the table, though not of the device below.
      #expect(!device.readNow(28..<36, into: buffer))
      #expect(!device.writeNow(28..<36, from: buffer, options: []))
      #expect(try await mapper.info("m").statistics.reads.operations == 1)
    }
  }

  @Test func aSuspendedDeviceRefusesThem() async throws {
    try await withMapper { mapper, _, buffer in
      try await mapper.create("m", table: "0 64 linear /dev/a 0")
      let device = try await mapper.open("m").device
      try await mapper.suspend("m")
      #expect(!device.readNow(0..<8, into: buffer))
      #expect(!device.writeNow(0..<8, from: buffer, options: []))
      try await mapper.resume("m")
      #expect(device.readNow(0..<8, into: buffer))
    }
  }

  @Test func whatHasToBeWaitedForIsRefused() async throws {
    try await withMapper { mapper, memory, buffer in
      try await mapper.create(
        "m",
        table: "0 4 linear /dev/a 0\n4 28 linear /dev/a 32\n32 16 error\n48 16 delay /dev/a 16 1")
      let device = try await mapper.open("m").device
      buffer.load(from: [UInt8](repeating: 7, count: 4096))
      for first in [0, 32, 48] as [Sector] {
        #expect(!device.readNow(first..<first + 8, into: buffer), "from \(first)")
        #expect(!device.writeNow(first..<first + 8, from: buffer, options: []), "from \(first)")
      }
      #expect(held(memory, 0..<64).allSatisfy { $0 == 0 })
      let statistics = try await mapper.info("m").statistics
      #expect(statistics.reads == .init() && statistics.writes == .init())
      try await mapper.create("r", table: "0 16 linear /dev/a 0", isReadOnly: true)
      let readOnly = try await mapper.open("r").device
      #expect(readOnly.readNow(0..<8, into: buffer))
      #expect(!readOnly.writeNow(0..<8, from: buffer, options: []))
    }
  }

  /// An origin takes them where its snapshots have nothing to lose, and on its loop alone.
  @Test func anOriginTakesThoseThatNeedNoCopy() async throws {
    let loop = try IOLoop.start()
    let disks = ["/dev/a": MemoryDevice(sectorCount: 64), "/dev/c": MemoryDevice(sectorCount: 256)]
    let opener = DeviceOpener { (word, _) async throws(IOFailure) in
      guard let disk = disks[word] else {
        throw IOFailure(.open, word, errno: .noSuchFileOrDirectory)
      }
      return disk
    }
    let mapper = DeviceMapper(opener, on: loop)
    let task = Task(executorPreference: loop) {
      try await mapper.create("o", table: "0 64 snapshot-origin /dev/a")
      let origin = try await mapper.open("o").device
      let pages = try PagePool.lend(holding: 8)
      let buffer = pages.buffer.slice(0, 8)
      buffer.load(from: [UInt8](repeating: 7, count: 4096))
      #expect(origin.writeNow(0..<8, from: buffer, options: []))
      try await mapper.suspend("o")
      try await mapper.create("s", table: "0 64 snapshot /dev/a /dev/c P 8")
      try await mapper.resume("o")
      let snapshot = try await mapper.open("s").device
      // The snapshot would lose what is there: refused, and nothing is written.
      buffer.load(from: [UInt8](repeating: 9, count: 4096))
      #expect(!origin.writeNow(0..<8, from: buffer, options: []))
      #expect(!origin.writeNow(4..<12, from: buffer, options: []))
      #expect(try await origin.contents(0..<8) == [UInt8](repeating: 7, count: 4096))
      try await origin.write(0..<8, from: buffer, options: [])
      buffer.load(from: [UInt8](repeating: 11, count: 4096))
      #expect(origin.writeNow(0..<8, from: buffer, options: []))
      #expect(!origin.writeNow(4..<12, from: buffer, options: []))
      #expect(try await origin.contents(0..<8) == [UInt8](repeating: 11, count: 4096))
      #expect(try await snapshot.contents(0..<8) == [UInt8](repeating: 7, count: 4096))
      buffer.clear()
      #expect(origin.readNow(0..<8, into: buffer) && !buffer.isZero)
    }
    try await task.value
    let pages = try PagePool.lend(holding: 8)
    let origin = try await mapper.open("o").device
    let buffer = pages.buffer.slice(0, 8)
    #expect(origin.readNow(0..<8, into: buffer))
    #expect(!origin.writeNow(0..<8, from: buffer, options: []))
    // While it is being merged what is read may be elsewhere.
    for name in ["o", "s"] { try await mapper.suspend(name) }
    try await mapper.load("o", "0 64 snapshot-merge /dev/a /dev/c P 8")
    try await mapper.resume("o")
    #expect(!origin.readNow(0..<8, into: buffer))
    loop.stop()
  }
}
