import BlockIO
import Foundation
import Kcopyd
import NBD
import SystemPackage

/// The source of a copy and the part of it that is wanted.
struct Source {
  let device: any BlockDevice
  /// The files that it is made of: one, unless it is a snapshot.
  let files: [any BlockDevice]
  let region: IORegion
  /// The bytes of the region that the source has: its last sector may be a begun one.
  let byteCount: UInt64

  /// Opens `path` and finds the region; every refusal says what is wrong with which.
  init(
    _ path: String, from: Sector, count: Sector?, options: WritingOptions, on engine: Engine
  ) async throws(Refusal) {
    let file = try await openEndpoint(path, writable: false, options: options, on: engine)
    try self.init(file, of: [file], from: from, count: count)
  }

  /// A part of a device that is open already.
  init(
    _ device: any BlockDevice, of files: [any BlockDevice], from: Sector, count: Sector?
  ) throws(Refusal) {
    self.device = device
    self.files = files
    let name = device.name
    guard device.sectorCount > .zero else { throw Refusal("'\(name)' is empty: nothing to copy") }
    guard from < device.sectorCount else {
      throw Refusal(
        "--from: sector \(from.rawValue) is behind the end of '\(name)',"
          + " which has \(device.sectorCount.rawValue) sectors")
    }
    let count = count ?? device.sectorCount - from
    guard count <= device.sectorCount - from else {
      throw Refusal(
        "--count: \(count.rawValue) sectors from \(from.rawValue) on reach behind the end of"
          + " '\(name)', which has \(device.sectorCount.rawValue) sectors")
    }
    region = IORegion(device, sector: from, count: count)
    byteCount = min(device.byteCount, region.sectors.upperBound.bytes) - from.bytes
  }
}

/// Opens one device; the refusal names it and says what to do.
func openDevice(
  _ path: String, _ how: FileDevice.Options, on loop: IOLoop
) throws(Refusal) -> FileDevice {
  do throws(IOFailure) {
    return try FileDevice.open(path, how, on: loop)
  } catch {
    let hint = error.errno == .resourceBusy ? "; release it, or use --force" : ""
    throw Refusal(error.description + hint)
  }
}

/// Opens the export that `name` is the URI of; nil: it isn't one but a file.
///
/// One that is only read lives on a thread of its own: receiving and sending at the same time.
func openExport(
  _ name: String, writable: Bool, on engine: Engine? = nil
) async throws(Refusal) -> NBDDevice? {
  guard NBDURI.isMeant(by: name) else { return nil }
  var options = NBDClientOptions()
  options.isWritable = writable
  do {
    return try await NBDDevice.open(
      NBDURI(name), options, on: writable ? engine?.network?.eventLoop : nil)
  } catch let error as IOFailure {
    throw Refusal(error.description)
  } catch {
    throw Refusal("\(error)")
  }
}

/// Opens one end of a copy as the options say: a file, a disk or an export.
func openEndpoint(
  _ path: String, writable: Bool, direct: DirectChoice? = nil, options: WritingOptions,
  on engine: Engine
) async throws(Refusal) -> any BlockDevice {
  if let export = try await openExport(path, writable: writable, on: engine) { return export }
  return try openDevice(
    path,
    .init(
      isWritable: writable, direct: direct ?? options.engine.direct, isExclusive: !options.force),
    on: engine.loop)
}

/// Whether two names are of one file, also through links.
func isSameFile(_ one: String, _ other: String) -> Bool {
  var first = stat()
  var second = stat()
  return stat(one, &first) == 0 && stat(other, &second) == 0 && first.st_dev == second.st_dev
    && first.st_ino == second.st_ino
}

/// The destinations of a copy. Files that don't exist are made last, when nothing else can be
/// refused any more, and removed again when making one of them fails.
struct Destinations {
  private(set) var devices: [any BlockDevice] = []
  private(set) var created: [String] = []

  init(
    _ paths: [String], of source: Source, at start: Sector, options: WritingOptions,
    on engine: Engine
  ) async throws(Refusal) {
    guard !paths.isEmpty else { throw Refusal("no destination") }
    guard paths.count <= KcopydClient.maximumDestinations else {
      throw Refusal(
        "\(paths.count) destinations; the most is \(KcopydClient.maximumDestinations)")
    }
    let (end, overflow) = start.rawValue.addingReportingOverflow(source.region.count.rawValue)
    guard !overflow, !Sector(end).bytesOverflow else {
      throw Refusal("--to: sector \(start.rawValue) is beyond what can be addressed")
    }
    let wanted = start.bytes + source.byteCount
    // What isn't worth caching when read isn't when written.
    let direct =
      options.engine.direct == .auto
        && source.files.allSatisfy { ($0 as? FileDevice)?.isDirect == true }
      ? DirectChoice.whenPossible : options.engine.direct
    var opened: [Int: any BlockDevice] = [:]
    let target = start..<Sector(end)
    for (index, path) in paths.enumerated() where Self.exists(path) {
      try Self.refuseDisk(path, target, under: source, on: engine.loop)
      let device = try await openEndpoint(
        path, writable: true, direct: direct, options: options, on: engine)
      try Self.check(device, against: source, wanted: wanted)
      try Self.refuseOverlap(of: device, target, with: source)
      if let other = opened.values.first(where: { $0.identity == device.identity }) {
        throw Refusal("'\(path)' and '\(other.name)' are the same destination")
      }
      if let other = opened.values.first(where: {
        Self.region(device, target).overlaps(Self.region($0, target))
      }) {
        throw Refusal("'\(path)' and '\(other.name)' share sectors: one lies on the other")
      }
      opened[index] = device
    }
    do throws(Refusal) {
      for (index, path) in paths.enumerated() where opened[index] == nil {
        opened[index] = try Self.create(
          path, byteCount: wanted, direct: direct, on: engine.loop)
        created.append(path)
      }
    } catch {
      for path in created { unlink(path) }
      throw error
    }
    devices = paths.indices.compactMap { opened[$0] }
  }

  private static func exists(_ path: String) -> Bool {
    if NBDURI.isMeant(by: path) { return true }
    var status = stat()
    return stat(path, &status) == 0 || errno != ENOENT
  }

  /// The same as ``refuseOverlap(of:_:with:)`` before a disk is opened for good: who holds one of
  /// its partitions would otherwise only be told that it is in use.
  private static func refuseDisk(
    _ path: String, _ target: Range<Sector>, under source: Source, on loop: IOLoop
  ) throws(Refusal) {
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFBLK,
      let device = try? FileDevice.open(
        path, .init(isWritable: false, direct: .off, isExclusive: false), on: loop)
    else { return }
    try refuseOverlap(of: device, target, with: source)
  }

  private static func refuseOverlap(
    of device: any BlockDevice, _ target: Range<Sector>, with source: Source
  ) throws(Refusal) {
    for file in source.files where file.identity != device.identity {
      // Where the parts of a snapshot are on its files isn't known here.
      let region =
        source.files.count == 1 ? source.region : IORegion(file, count: file.sectorCount)
      if region.overlaps(Self.region(device, target)) {
        throw Refusal(
          "'\(device.name)' shares sectors with the source '\(file.name)': one lies on the other")
      }
    }
  }

  private static func region(_ device: any BlockDevice, _ sectors: Range<Sector>) -> IORegion {
    IORegion(device, sector: sectors.lowerBound, count: sectors.length)
  }

  private static func check(
    _ device: any BlockDevice, against source: Source, wanted: UInt64
  ) throws(Refusal) {
    guard !source.files.contains(where: { $0.identity == device.identity }) else {
      throw Refusal(
        source.files.count == 1
          ? "'\(device.name)' is the source itself" : "'\(device.name)' is a part of the source")
    }
    guard device.byteCount >= wanted else {
      throw Refusal(
        "'\(device.name)' is too small: it has \(device.byteCount) bytes, \(wanted) are needed")
    }
    guard wanted % Sector.byteCount == 0 || device.byteCount == wanted else {
      throw Refusal(
        "the end of '\(source.device.name)' is no whole sector, and '\(device.name)' goes on"
          + " behind it; a destination of \(wanted) bytes takes it all, and 'kcopyd copy --count' leaves"
          + " the end out")
    }
  }

  private static func create(
    _ path: String, byteCount: UInt64, direct: DirectChoice, on loop: IOLoop
  ) throws(Refusal) -> FileDevice {
    do throws(IOFailure) {
      return try FileDevice.create(path, byteCount: byteCount, direct: direct, on: loop)
    } catch {
      let hint = error.errno == .fileExists ? " (given twice?)" : ""
      throw Refusal("cannot create '\(path)': \(error.reason)\(hint)")
    }
  }

  /// Those that were made for this copy, by index.
  var blank: Set<Int> {
    Set(devices.indices.filter { created.contains(devices[$0].name) })
  }

  /// The bytes of storage that regular files take, by index.
  var allocated: [UInt64?] { devices.map { ($0 as? FileDevice)?.allocatedBytes() } }

  /// Takes the new files away again, when nothing has been copied.
  func removeCreated() {
    for path in created { unlink(path) }
  }

  /// Makes the names of new files durable, as flushing the files does for their content.
  ///
  /// - Returns: why that isn't so, by the destination's index.
  func syncFolders() -> [Int: IOFailure] {
    var failures: [Int: IOFailure] = [:]
    for (index, device) in devices.enumerated() where created.contains(device.name) {
      let folder = URL(fileURLWithPath: device.name).deletingLastPathComponent().path
      let descriptor = open(folder, O_RDONLY | O_CLOEXEC)
      if descriptor < 0 || fsync(descriptor) != 0 {
        failures[index] = IOFailure(
          .flush, device.name, errno: Errno(rawValue: errno),
          detail: "its folder can't be synced: \(Errno(rawValue: errno))")
      }
      if descriptor >= 0 { close(descriptor) }
    }
    return failures
  }
}
