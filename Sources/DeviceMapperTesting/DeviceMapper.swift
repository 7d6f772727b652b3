import BlockIO
import BlockIOTesting
import Mirrors
import Snapshots

/// As much of `dmsetup` as the vectors use, over devices of a test.
package final class DeviceMapper {
  /// The disks by path.
  private let disks: [String: any BlockDevice]
  /// How mirrors behave.
  private let conduct: MirrorParameters.Conduct
  private let loop: IOLoop
  private var mapped: [String: Mapped] = [:]
  /// One for each device that has snapshots, by its path.
  private var origins: [String: Origin] = [:]

  private struct Mapped {
    let number: Int
    var lines: [TableLine]
    var target: Target
    /// What takes the target's place when the device is resumed.
    var reloaded: (lines: [TableLine], target: Target)?
  }

  private enum Target {
    case snapshot(SnapshotDevice)
    case merge(MergeDevice)
    case origin(OriginDevice)
    case mirror(MirrorDevice)
    case segments(SegmentDevice)

    var device: any BlockDevice {
      switch self {
      case .snapshot(let device): device
      case .merge(let device): device
      case .origin(let device): device
      case .mirror(let device): device
      case .segments(let device): device
      }
    }
  }

  /// `START LENGTH TARGET WORD…`
  private struct TableLine {
    let sectors: Range<Sector>
    let target: String
    let words: [String]

    init(_ line: String) throws {
      let words = line.split(separator: " ").map(String.init)
      guard words.count >= 3, let start = UInt64(words[0]), let length = UInt64(words[1]) else {
        throw CheckFailure("no table line: '\(line)'")
      }
      sectors = Sector(start)..<Sector(start + length)
      target = words[2]
      self.words = Array(words.dropFirst(3))
    }

    /// Start, length and target, as all output begins.
    var head: String { "\(sectors.lowerBound.rawValue) \(sectors.length.rawValue) \(target) " }
  }

  package init(
    _ disks: [String: any BlockDevice], mirrors conduct: MirrorParameters.Conduct, on loop: IOLoop
  ) {
    self.disks = disks
    self.conduct = conduct
    self.loop = loop
  }

  // MARK: Devices

  /// The device of a path.
  package func device(_ path: String) throws -> any BlockDevice {
    if let disk = disks[path] { return disk }
    return try find(name(path)).target.device
  }

  private func name(_ path: String) -> String { String(path.split(separator: "/").last ?? "") }

  private func find(_ name: String) throws -> Mapped {
    guard let found = mapped[name] else { throw CheckFailure("no device '\(name)'") }
    return found
  }

  /// The numbers that the kernel gave: disks have 16 minor numbers each, mapped devices one.
  private func number(_ path: String) throws -> String {
    if let index = disks.keys.sorted().firstIndex(of: path) { return "254:\(index * 16)" }
    return "253:\(try find(name(path)).number)"
  }

  private func origin(_ path: String) throws -> Origin {
    if let known = origins[path] { return known }
    let made = try Origin(try device(path), on: loop)
    origins[path] = made
    return made
  }

  // MARK: Commands

  /// Makes a device and resumes it.
  package func create(_ name: String, _ table: [String], isReadOnly: Bool) async throws {
    let lines = try table.map(TableLine.init)
    let number = (0...).first { number in !mapped.values.contains { $0.number == number } }
    let target = try await target(name, lines, isReadOnly: isReadOnly)
    mapped[name] = Mapped(number: number ?? 0, lines: lines, target: target)
    try await start(target)
  }

  private func start(_ target: Target) async throws {
    switch target {
    case .snapshot(let device): try await device.resume()
    case .merge(let device): try await device.resume()
    case .mirror(let device): try await device.resume()
    case .origin, .segments: break
    }
  }

  /// Gives a device another table, from its next resume on.
  package func reload(_ name: String, _ table: [String]) async throws {
    let lines = try table.map(TableLine.init)
    let target = try await target(name, lines, isReadOnly: false)
    mapped[name]?.reloaded = (lines, target)
  }

  private func target(
    _ name: String, _ lines: [TableLine], isReadOnly: Bool
  ) async throws -> Target {
    guard let line = lines.first else { throw CheckFailure("an empty table") }
    switch line.target {
    case "snapshot-origin": return .origin(try origin(line.words[0]).device)
    case "snapshot", "snapshot-merge":
      let origin = try origin(line.words[0])
      let disk = try device(line.words[1])
      let cow = isReadOnly ? SegmentDevice(readOnly: disk, on: loop) : disk
      let parameters = try SnapshotParameters(words: Array(line.words.dropFirst(2)))
      let length = line.sectors.length
      return line.target == "snapshot"
        ? .snapshot(
          try await origin.addSnapshot(cow: cow, parameters: parameters, sectorCount: length))
        : .merge(try await origin.addMerge(cow: cow, parameters: parameters, sectorCount: length))
    case "mirror":
      var table = try MirrorTable(words: line.words, length: line.sectors.length)
      table.parameters.conduct = conduct
      return .mirror(
        try MirrorDevice(
          legs: try table.legs.map { MirrorLeg(try device($0.device), offset: $0.offset) },
          log: try table.log.map(device), sectorCount: line.sectors.length,
          parameters: table.parameters, name: name, on: loop))
    default:
      return .segments(SegmentDevice(name, try lines.map(segment), on: loop))
    }
  }

  private func segment(_ line: TableLine) throws -> SegmentDevice.Segment {
    switch line.target {
    case "linear", "delay":
      guard let first = UInt64(line.words[1]) else { throw CheckFailure("no sector") }
      // A delay has device, first sector and milliseconds of reads, then those of writes.
      let delay = line.target == "delay" ? line.words.dropFirst(5).first : nil
      return SegmentDevice.Segment(
        sectors: line.sectors, target: (try device(line.words[0]), Sector(first)),
        writeDelay: .milliseconds(delay.flatMap { Int($0) } ?? 0))
    case "error": return SegmentDevice.Segment(sectors: line.sectors, target: nil)
    default: throw CheckFailure("unknown target '\(line.target)'")
    }
  }

  /// What `dmsetup table` prints.
  package func table(_ name: String) async throws -> String {
    let found = try find(name)
    let line = found.lines[0]
    switch found.target {
    case .snapshot(let device):
      return line.head + (try devices(line)) + " " + (await device.tableWords)
    case .merge(let device):
      return line.head + (try devices(line)) + " " + (await device.tableWords)
    case .origin: return line.head + (try number(line.words[0]))
    case .mirror:
      var table = try MirrorTable(words: line.words, length: line.sectors.length)
      for index in table.legs.indices {
        table.legs[index].device = try number(table.legs[index].device)
      }
      table.log = try table.log.map(number)
      return line.head + table.words
    case .segments: throw CheckFailure("no table of '\(name)'")
    }
  }

  private func devices(_ line: TableLine) throws -> String {
    "\(try number(line.words[0])) \(try number(line.words[1]))"
  }

  /// What `dmsetup status` prints.
  package func status(_ name: String) async throws -> String {
    let found = try find(name)
    let head = found.lines[0].head
    switch found.target {
    case .snapshot(let device): return head + (await device.status.line)
    case .merge(let device): return head + (await device.status.line)
    case .mirror(let device):
      return head + (await device.status).line { (try? number($0)) ?? "no number for '\($0)'" }
    case .origin, .segments: return head
    }
  }

  /// - Parameter isNoFlush: whether requests that can't be done now are to be done by what takes
  ///   the device's place.
  package func suspend(_ name: String, isNoFlush: Bool = false) async throws {
    switch try find(name).target {
    case .snapshot(let device): await device.suspend()
    case .merge(let device): await device.suspend()
    case .mirror(let device): await device.suspend(requeuing: isNoFlush)
    case .origin, .segments: break  // Resuming a snapshot makes its origin stand still by itself.
    }
  }

  package func resume(_ name: String) async throws {
    var found = try find(name)
    if let (lines, target) = found.reloaded {
      (found.lines, found.target, found.reloaded) = (lines, target, nil)
      mapped[name] = found
    }
    try await start(found.target)
  }

  package func remove(_ name: String) async throws {
    switch try find(name).target {
    case .snapshot(let device): await device.remove()
    case .merge(let device): await device.remove()
    case .mirror(let device): await device.suspend()
    case .origin, .segments: break
    }
    mapped[name] = nil
  }

  /// Ends everything where power has failed: nothing reaches the disks any more.
  package func abandon() async {
    for name in mapped.keys.sorted() { try? await remove(name) }
  }

  /// Waits until the merge of that name is at its end, and returns its status.
  package func waitForMerge(_ name: String) async throws -> String {
    guard case .merge(let device) = try find(name).target else {
      throw CheckFailure("'\(name)' is no merge")
    }
    await device.waitUntilEnded()
    return try await status(name)
  }

  /// Waits until as many regions of a mirror are in sync as `until` says, looking as often as a
  /// script would, and returns its status.
  package func waitForMirror(_ name: String, until: String) async throws -> String {
    guard case .mirror(let device) = try find(name).target else {
      throw CheckFailure("'\(name)' is no mirror")
    }
    for _ in 0..<10_000 {
      await loop.sleep(for: .milliseconds(10))
      let status = await device.status
      let isSo =
        switch until {
        case "n == of": status.regionsInSync == status.regionCount
        case "n < of": status.regionsInSync < status.regionCount
        case "n >= 30": status.regionsInSync >= 30
        default: throw CheckFailure("unknown condition '\(until)'")
        }
      if isSo { return try await self.status(name) }
    }
    throw CheckFailure("'\(name)': \(try await status(name)), not \(until)")
  }
}
