import BlockIO
import BlockIOTesting
@testable import DeviceMapper
import SystemPackage

/// Simulated disks by name, and a mapper over them.
struct MapperWorld: Sendable {
  let loop: IOLoop
  let disks: [String: SimulatedDisk]
  let mapper: DeviceMapper

  init(
    _ names: [String] = ["a", "b", "c"], sectorCount: Sector = 2048, seed: UInt64 = 0,
    content: SimulatedDisk.Content? = .zeroes, power: CrashSwitch? = nil,
    faults: GateFaults = [], limits: DeviceLimits = SimulatedDisk.allCapabilities,
    on loop: IOLoop
  ) {
    self.loop = loop
    var disks: [String: SimulatedDisk] = [:]
    for (index, name) in names.enumerated() {
      disks["/dev/\(name)"] = SimulatedDisk(
        "/dev/\(name)", sectorCount: sectorCount, content: content, seed: seed &+ UInt64(index),
        loop: loop, limits: limits, crashSwitch: power)
    }
    self.disks = disks
    mapper = Self.mapper(over: disks, faults: faults, on: loop)
  }

  static func mapper(
    over disks: [String: SimulatedDisk], faults: GateFaults = [], on loop: IOLoop
  ) -> DeviceMapper {
    var configuration = DeviceMapper.Configuration()
    configuration.randomSeed = 1
    configuration.faults = faults
    let opener = DeviceOpener { (word, _) async throws(IOFailure) in
      guard let disk = disks[word] else {
        throw IOFailure(.open, word, errno: .noSuchFileOrDirectory)
      }
      return disk
    }
    return DeviceMapper(opener, configuration: configuration, on: loop)
  }

  func disk(_ name: String) throws -> SimulatedDisk {
    guard let disk = disks["/dev/\(name)"] else { throw CheckFailure("no disk \(name)") }
    return disk
  }

  func device(_ name: String) async throws -> MappedDevice { try await mapper.open(name).device }
}

extension BlockDevice {
  func contents(_ sectors: Range<Sector>) async throws -> [UInt8] {
    let pages = try PagePool.lend(holding: sectors.length)
    let buffer = pages.buffer.slice(.zero, sectors.length)
    try await read(sectors, into: buffer)
    var bytes = [UInt8](repeating: 0, count: buffer.byteCount)
    buffer.store(into: &bytes)
    return bytes
  }

  func put(_ bytes: [UInt8], at first: Sector, options: WriteOptions = []) async throws(IOFailure) {
    let count = Sector(holding: UInt64(bytes.count))
    let pages = try PagePool.lend(holding: count)
    let buffer = pages.buffer.slice(.zero, count)
    buffer.load(from: bytes)
    try await write(first..<first + count, from: buffer, options: options)
  }

  func put(_ label: String, _ sectors: Range<Sector>) async throws {
    try await put(Pattern(label).bytes(sectors), at: sectors.lowerBound)
  }
}

/// What a body is refused with.
func refusal<R>(
  _ body: () async throws(DeviceMapperError) -> R
) async throws -> DeviceMapperError {
  do throws(DeviceMapperError) { _ = try await body() } catch { return error }
  throw CheckFailure("it wasn't refused")
}
