import BlockIO
import BlockIOTesting
import Snapshots

/// As much of `dmsetup` as the vectors use, over devices in memory.
final class DeviceMapper {
  /// The disks by path.
  private let disks: [String: MemoryDevice]
  private let loop: IOLoop
  private var mapped: [String: Mapped] = [:]
  /// One for each device that has snapshots, by its path.
  private var origins: [String: Origin] = [:]

  private struct Mapped {
    let number: Int
    let lines: [TableLine]
    let target: Target
  }

  private enum Target {
    case snapshot(SnapshotDevice)
    case merge(MergeDevice)
    case origin(OriginDevice)
    case segments(SegmentDevice)

    var device: any BlockDevice {
      switch self {
      case .snapshot(let device): device
      case .merge(let device): device
      case .origin(let device): device
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

  init(_ disks: [String: MemoryDevice], on loop: IOLoop) {
    self.disks = disks
    self.loop = loop
  }

  // MARK: Devices

  /// The device of a path.
  func device(_ path: String) throws -> any BlockDevice {
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
  func create(_ name: String, _ table: [String], isReadOnly: Bool) async throws {
    let lines = try table.map(TableLine.init)
    let number = (0...).first { number in !mapped.values.contains { $0.number == number } }
    let target = try await target(name, lines, isReadOnly: isReadOnly)
    mapped[name] = Mapped(number: number ?? 0, lines: lines, target: target)
    switch target {
    case .snapshot(let device): try await device.resume()
    case .merge(let device): try await device.resume()
    case .origin, .segments: break
    }
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
      let cow = isReadOnly ? SegmentDevice(readOnly: disk) : disk
      let parameters = try SnapshotParameters(words: Array(line.words.dropFirst(2)))
      let length = line.sectors.length
      return line.target == "snapshot"
        ? .snapshot(
          try await origin.addSnapshot(cow: cow, parameters: parameters, sectorCount: length))
        : .merge(try await origin.addMerge(cow: cow, parameters: parameters, sectorCount: length))
    default:
      return .segments(SegmentDevice(name, try lines.map(segment)))
    }
  }

  private func segment(_ line: TableLine) throws -> SegmentDevice.Segment {
    switch line.target {
    case "linear", "delay":
      guard let first = UInt64(line.words[1]) else { throw CheckFailure("no sector") }
      return SegmentDevice.Segment(
        sectors: line.sectors, target: (try device(line.words[0]), Sector(first)))
    case "error": return SegmentDevice.Segment(sectors: line.sectors, target: nil)
    default: throw CheckFailure("unknown target '\(line.target)'")
    }
  }

  /// What `dmsetup table` prints.
  func table(_ name: String) async throws -> String {
    let found = try find(name)
    let line = found.lines[0]
    switch found.target {
    case .snapshot(let device):
      return line.head + (try devices(line)) + " " + (await device.tableWords)
    case .merge(let device):
      return line.head + (try devices(line)) + " " + (await device.tableWords)
    case .origin: return line.head + (try number(line.words[0]))
    case .segments: throw CheckFailure("no table of '\(name)'")
    }
  }

  private func devices(_ line: TableLine) throws -> String {
    "\(try number(line.words[0])) \(try number(line.words[1]))"
  }

  /// What `dmsetup status` prints.
  func status(_ name: String) async throws -> String {
    let found = try find(name)
    let head = found.lines[0].head
    switch found.target {
    case .snapshot(let device): return head + (await device.status.line)
    case .merge(let device): return head + (await device.status.line)
    case .origin, .segments: return head
    }
  }

  func suspend(_ name: String) async throws {
    switch try find(name).target {
    case .snapshot(let device): await device.suspend()
    case .merge(let device): await device.suspend()
    case .origin, .segments: break  // Resuming a snapshot makes its origin stand still by itself.
    }
  }

  func resume(_ name: String) async throws {
    switch try find(name).target {
    case .snapshot(let device): try await device.resume()
    case .merge(let device): try await device.resume()
    case .origin, .segments: break
    }
  }

  func remove(_ name: String) async throws {
    switch try find(name).target {
    case .snapshot(let device): await device.remove()
    case .merge(let device): await device.remove()
    case .origin, .segments: break
    }
    mapped[name] = nil
  }

  /// Waits until the merge of that name is at its end, and returns its status.
  func waitForMerge(_ name: String) async throws -> String {
    guard case .merge(let device) = try find(name).target else {
      throw CheckFailure("'\(name)' is no merge")
    }
    await device.waitUntilEnded()
    return try await status(name)
  }
}
