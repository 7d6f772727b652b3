import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

@Suite struct MemoryDeviceTests {
  @Test func readsWhatWasWritten() throws {
    try simulate { _ in
      let device = MemoryDevice(sectorCount: 64)
      let pages = await (try PagePool(pageCount: 2)).take(2)
      Pattern("new").fill(pages.buffer, from: 8)
      try await device.write(8..<24, from: pages.buffer)
      #expect(device.contents(8..<24) == Pattern("new").bytes(8..<24))
      #expect(device.contents(0..<8).allSatisfy { $0 == 0 })
      try await device.writeZeroes(10..<12, mayUnmap: false)
      try await device.discard(20..<22)
      try await device.flush()
      pages.buffer.clear()
      try await device.read(9..<25, into: pages.buffer)
      let found = Pattern("new").mismatch(pages.buffer, from: 9)
      #expect(found.map { Array($0.sectors.ranges) } == [10..<12, 20..<22, 24..<25])
      device.fill(from: 62, Pattern("fill").bytes(62..<64))
      #expect(device.contents(62..<64) == Pattern("fill").bytes(62..<64))
      let beyond = await failure { try await device.read(60..<76, into: pages.buffer) }
      #expect(beyond?.errno == .ioError && beyond?.sectors == 60..<76)
    }
  }

  /// A device with nothing but reading and writing: the protocol does the rest.
  private final class Plain: BlockDevice {
    let name = "plain"
    let limits = DeviceLimits()
    let memory: MemoryDevice
    let writes = Locked<[Range<Sector>]>([])
    var sectorCount: Sector { memory.sectorCount }

    init(sectorCount: Sector) { memory = MemoryDevice(sectorCount: sectorCount) }

    func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
      try await memory.read(sectors, into: buffer)
    }

    func write(
      _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
    ) async throws(IOFailure) {
      writes.withLock { $0.append(sectors) }
      try await memory.write(sectors, from: buffer, options: options)
    }

    func flush() async throws(IOFailure) {}
  }

  @Test func defaults() throws {
    try simulate { _ in
      let device = Plain(sectorCount: 6000)
      device.memory.fill(Pattern("old").bytes(0..<6000))
      try await device.writeZeroes(7..<5000, mayUnmap: true)
      #expect(device.writes.value == [7..<2055, 2055..<4103, 4103..<5000])
      #expect(device.memory.contents(7..<5000).allSatisfy { $0 == 0 })
      #expect(Pattern("old").mismatch(device.memory.contents(0..<7), from: 0) == nil)
      #expect(Pattern("old").mismatch(device.memory.contents(5000..<6000), from: 5000) == nil)
      #expect(await failure { try await device.discard(0..<1) }?.errno == .notSupported)
      #expect(try await device.blockStatus(1..<3, limit: 5) == [BlockExtent(1..<3, .unknown)])
      #expect(try await device.blockStatus(1..<1, limit: 5) == [])
      #expect(await failure { _ = try await device.blockStatus(0..<6001, limit: 1) } != nil)
      #expect(device.byteCount == 6000 * 512 && device.pageCachedFile == nil)
      #expect(IORegion(device, sector: 3, count: 4).description == "'plain' sectors 3–6")
    }
  }
}
