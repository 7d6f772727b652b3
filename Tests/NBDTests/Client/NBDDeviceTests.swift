import BlockIO
import BlockIOTesting
import Foundation
import SystemPackage
import Testing

@testable import NBD

/// Memory for a request, with the pattern of a seed.
func withPages<R>(_ sectors: Sector, _ body: (IOBuffer) async throws -> R) async throws -> R {
  let pages = try PagePool.lend(holding: sectors)
  return try await body(pages.buffer.slice(0, sectors))
}

extension BlockDevice {
  func bytes(_ sectors: Range<Sector>) async throws -> [UInt8] {
    try await withPages(sectors.length) { buffer in
      try await self.read(sectors, into: buffer)
      var bytes = [UInt8](repeating: 0, count: buffer.byteCount)
      buffer.store(into: &bytes)
      return bytes
    }
  }

  func put(_ bytes: [UInt8], at sector: Sector, _ options: WriteOptions = []) async throws {
    let count = Sector(UInt64(bytes.count) / 512)
    try await withPages(count) { buffer in
      buffer.load(from: bytes)
      try await self.write(sector..<sector + count, from: buffer, options: options)
    }
  }
}

/// Bytes that don't repeat at any power of two.
func varied(count: Int, from start: Int = 0) -> [UInt8] {
  let piece = (0..<65_537).map { UInt8(truncatingIfNeeded: (start + $0) ^ ($0 >> 8)) }
  var bytes: [UInt8] = []
  while bytes.count < count { bytes += piece }
  return Array(bytes.prefix(count))
}

func failure(_ body: () async throws -> Void) async -> IOFailure? {
  do {
    try await body()
    return nil
  } catch {
    return error as? IOFailure
  }
}

/// Random requests, one after the other and some at once, against a model of what the device holds.
func exercise(
  _ device: NBDDevice, _ model: inout [UInt8], _ random: inout SeededRandom, count: Int = 80
) async throws {
  for _ in 0..<count {
    let sectors = random.range(in: .zero..<device.sectorCount, longest: 100)
    let bytes = Int(sectors.lowerBound.bytes)..<Int(sectors.upperBound.bytes)
    switch random.next(upperBound: UInt64(6)) {
    case 0, 1:
      let data = (bytes).map { _ in UInt8.random(in: 0...255, using: &random) }
      try await device.put(
        data, at: sectors.lowerBound, random.chance(1, in: 4) ? .durable : [])
      model.replaceSubrange(bytes, with: data)
    case 2:
      try await device.writeZeroes(sectors, mayUnmap: random.chance(1, in: 2))
      model.replaceSubrange(bytes, with: repeatElement(0, count: bytes.count))
    case 3:
      var next = sectors.lowerBound
      for extent in try await device.blockStatus(sectors, limit: 10) {
        #expect(extent.sectors.lowerBound == next)
        next = extent.sectors.upperBound
        guard extent.status == .zero else { continue }
        let part = Int(extent.sectors.lowerBound.bytes)..<Int(next.bytes)
        #expect(model[part].allSatisfy { $0 == 0 }, "not zero: \(extent.sectors.label)")
      }
      #expect(next > sectors.lowerBound)
    default:
      #expect(try await device.bytes(sectors) == Array(model[bytes]))
    }
  }
  // Neighbours in one block at the same time: none undoes the other.
  try await withThrowingTaskGroup(of: Void.self) { group in
    for sector in 0..<64 {
      let data = [UInt8](repeating: UInt8(sector), count: 512)
      model.replaceSubrange(sector * 512..<sector * 512 + 512, with: data)
      group.addTask { try await device.put(data, at: Sector(UInt64(sector))) }
    }
    try await group.waitForAll()
  }
}

/// The arguments of a server, and what is special about it.
struct ServerKind: CustomTestStringConvertible, Sendable {
  let arguments: [String]
  var testDescription: String { arguments.joined(separator: " ") }

  static let all = [
    ["nbdkit", "file", "@/disk"],
    ["nbdkit", "file", "@/disk", "--filter=noextents"],
    [
      "nbdkit", "--filter=blocksize-policy", "file", "@/disk", "blocksize-minimum=4096",
      "blocksize-preferred=4096", "blocksize-maximum=65536", "blocksize-error-policy=error",
    ],
    ["nbdkit", "--filter=fua", "file", "@/disk", "fuamode=emulate"],
    ["nbdkit", "--filter=nozero", "file", "@/disk"],
    ["nbdkit", "--filter=delay", "file", "@/disk", "rdelay=1ms", "wdelay=1ms"],
    ["nbdkit", "--filter=noparallel", "file", "@/disk", "serialize=requests"],
    ["nbdkit", "--no-sr", "file", "@/disk"],
    ["nbdkit", "--filter=multi-conn", "file", "@/disk", "multi-conn-mode=disable"],
    ["nbdkit", "--mask-handshake=0", "file", "@/disk"],
    ["qemu-nbd", "-f", "raw", "--shared=8", "@/disk"],
  ].map { ServerKind(arguments: $0) }
}

@Suite struct NBDDeviceTests {
  @Test(arguments: ServerKind.all) func `random requests, like the disk behind the server`(
    kind: ServerKind
  ) async throws {
    guard OtherServer.isInstalled(kind.arguments[0]) else {
      return print("skipped: \(kind.arguments[0]) is not installed")
    }
    let server = try OtherServer(kind.arguments)
    // Whole blocks for those servers that insist.
    let size = 1 << 18
    var random = SeededRandom(seed: 5)
    var model = (0..<size).map { _ in UInt8.random(in: 0...255, using: &random) }
    try server.write("disk", Data(model))
    try server.start()
    let device = try await NBDDevice.open(server.uri())
    #expect(device.byteCount == UInt64(size))
    try await exercise(device, &model, &random)
    try await device.flush()
    #expect(try server.read("disk") == Data(model))
  }

  @Test(arguments: [
    ["nbdkit", "file", "@/disk"], ["qemu-nbd", "-f", "raw", "--shared=8", "@/disk"],
  ])
  func `large requests, many at once, both ways`(arguments: [String]) async throws {
    guard OtherServer.isInstalled(arguments[0]) else {
      return print("skipped: \(arguments[0]) is not installed")
    }
    let server = try OtherServer(arguments)
    let (lanes, size) = (6, 1 << 20 | 4096)
    try server.write("disk", Data(count: lanes * size))
    try server.start()
    let device = try await NBDDevice.open(server.uri())
    try await withThrowingTaskGroup(of: Void.self) { group in
      for lane in 0..<lanes {
        group.addTask {
          let start = Sector(UInt64(lane * size / 512))
          let data = varied(count: size, from: lane)
          try await device.put(data, at: start)
          let found = try await device.bytes(start..<start + Sector(UInt64(size / 512)))
          #expect(found == data, "lane \(lane)")
        }
      }
      try await group.waitForAll()
    }
  }

  @Test func `an export whose end is no whole sector`() async throws {
    guard OtherServer.isInstalled("nbdkit") else { return print("skipped: no nbdkit") }
    let server = try OtherServer("nbdkit", "file", "@/disk")
    let data = Data((0..<1300).map { UInt8(truncatingIfNeeded: $0 * 7) })
    try server.write("disk", data)
    try server.start()
    let device = try await NBDDevice.open(server.uri())
    #expect(device.byteCount == 1300 && device.sectorCount == 3)
    let found = try await device.bytes(0..<3)
    #expect(Data(found.prefix(1300)) == data && found.dropFirst(1300).allSatisfy { $0 == 0 })
    try await device.put([UInt8](repeating: 1, count: 512), at: 2)
    try await device.flush()
    #expect(try server.read("disk") == data.prefix(1024) + Data(repeating: 1, count: 276))
  }

  @Test func `errors have their place and their reason`() async throws {
    guard OtherServer.isInstalled("nbdkit") else { return print("skipped: no nbdkit") }
    let server = try OtherServer(
      "nbdkit", "--filter=error", "memory", "1M", "error-pread=ENOSPC", "error-pread-rate=100%",
      "error-zero=EIO", "error-zero-rate=100%")
    try server.start()
    let device = try await NBDDevice.open(server.uri())
    let read = await failure { _ = try await device.bytes(4..<8) }
    #expect(read?.errno == .noSpace && read?.sectors == 4..<8)
    let zero = await failure { try await device.writeZeroes(4..<8, mayUnmap: true) }
    #expect(zero?.errno == .ioError && zero?.operation == .writeZeroes)
    let beyond = await failure { _ = try await device.bytes(2047..<2049) }
    #expect(beyond?.reason.contains("beyond the end") == true)
  }

  /// One request in five fails; what goes well is right, and so is what is tried again.
  @Test func `errors now and then`() async throws {
    guard OtherServer.isInstalled("nbdkit") else { return print("skipped: no nbdkit") }
    let server = try OtherServer(
      "nbdkit", "--filter=error", "file", "@/disk", "error=EIO", "error-rate=20%")
    var random = SeededRandom(seed: 9)
    var model = [UInt8](repeating: 3, count: 1 << 16)
    try server.write("disk", Data(model))
    try server.start()
    let device = try await NBDDevice.open(server.uri())
    var failures = 0
    func untilDone(_ body: () async throws -> Void) async throws {
      while let failure = await failure(body) {
        #expect(failure.errno == .ioError)
        failures += 1
      }
    }
    for _ in 0..<60 {
      let sectors = random.range(in: .zero..<device.sectorCount, longest: 20)
      let bytes = Int(sectors.lowerBound.bytes)..<Int(sectors.upperBound.bytes)
      let data = bytes.map { _ in UInt8.random(in: 0...255, using: &random) }
      try await untilDone { try await device.put(data, at: sectors.lowerBound) }
      model.replaceSubrange(bytes, with: data)
      try await untilDone {
        let found = try await device.bytes(sectors)
        #expect(found == data)
      }
    }
    try await untilDone { try await device.flush() }
    #expect(failures > 0)
    #expect(try server.read("disk") == Data(model))
  }

  @Test func `what can't be opened is refused with the reason`() async throws {
    guard OtherServer.isInstalled("nbdkit") else { return print("skipped: no nbdkit") }
    let server = try OtherServer(
      "nbdkit", "--filter=exportname", "-r", "memory", "1M",
      "exportname-strict=true", "exportname=a")
    let nobody = await failure { _ = try await NBDDevice.open(server.uri("a")) }
    #expect(nobody?.reason.contains("No such file") == true)
    try server.start()
    let readOnly = await failure { _ = try await NBDDevice.open(server.uri("a")) }
    #expect(readOnly?.errno == .readOnlyFileSystem)
    let unknown = await failure { _ = try await NBDDevice.open(server.uri("b")) }
    #expect(unknown != nil)
    let tls = await failure {
      _ = try await NBDDevice.open(NBDURI("nbds+unix:///a?socket=\(server.socket)"))
    }
    #expect(tls?.reason.contains("TLS") == true)
    var options = NBDClientOptions()
    options.isWritable = false
    let device = try await NBDDevice.open(server.uri("a"), options)
    let write = await failure { try await device.put([UInt8](repeating: 0, count: 512), at: 0) }
    #expect(write?.errno == .readOnlyFileSystem)
    try await device.flush()
  }

  @Test func `two names of one export are one device`() async throws {
    guard OtherServer.isInstalled("nbdkit") else { return print("skipped: no nbdkit") }
    let server = try OtherServer("nbdkit", "memory", "1M")
    try server.start()
    let one = try await NBDDevice.open(server.uri("a"))
    let other = try await NBDDevice.open(
      NBDURI("nbd+unix:///a?socket=\(server.folder.path)/./s"))
    let third = try await NBDDevice.open(server.uri("b"))
    #expect(one.identity == other.identity && one.identity != third.identity)
  }
}
