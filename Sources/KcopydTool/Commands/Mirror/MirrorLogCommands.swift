import ArgumentParser
import BlockIO
import Foundation
import Mirrors

struct MirrorCreateLogCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "create-log", abstract: "Make a new log for a mirror.",
    discussion: "A log file that doesn't exist is made as long as it must be.")

  @Argument(help: ArgumentHelp("Where the log is made.", valueName: "log"))
  var log: String

  @Option(name: .customLong("for"), help: "A leg: the mirror will be as long as it is.")
  var leg: String?

  @Option(help: "The length of the mirror, if no leg is given.")
  var size: String?

  @Option(help: "Size of a region, a power of two.")
  var region: String = "2MiB"

  @Option(help: "Also make a sidecar, a new file of 128 KiB or a device. See mirror sync.")
  var sidecar: String?

  @Flag(help: "All legs hold the same already: nothing is to be copied.")
  var inSync = false

  @Flag(help: "Overwrite a log, and a sidecar, that is there.")
  var overwrite = false

  @Flag(name: .shortAndLong, help: "No summary.")
  var quiet = false

  func run() async throws {
    let loop = try startLoop()
    let region = try regionSize(region)
    let length = try mirrorLength(leg: leg, size: size, on: loop)
    let count = region.count(in: length)
    guard region.sectors <= length, count <= RegionSize.maximumCount else {
      throw Refusal(
        "--region: \(count) regions of \(region.sectors.rawValue) sectors in"
          + " \(length.rawValue); 1 to \(RegionSize.maximumCount) whole ones are possible")
    }
    if let sidecar, isSameFile(sidecar, log) || sidecar == log {
      throw Refusal("'\(log)' and '\(sidecar)' are the same device")
    }
    // Whole pages, so that it can be used on disks with large blocks, too.
    let bytes = MirrorLog.length(regionCount: count, block: 4096).bytes
    let places = try Place.all(
      [(log, bytes)] + (sidecar.map { [($0, MirrorSidecar.length.bytes)] } ?? []), leg: leg,
      on: loop)
    do throws(MirrorError) {
      try await make(for: count, on: places.map(\.device))
    } catch {
      Place.remove(places)
      let hint = if case .state = error { "; --overwrite ends it" } else { "" }
      throw Refusal(error.description + hint)
    }
    if !quiet {
      Output.say(
        "made a log for \(count) regions of \(Format.bytes(region.sectors.bytes)) in '\(log)',"
          + " \(inSync ? "all in sync" : "none in sync"), durable")
      if let sidecar { Output.say("made a sidecar in '\(sidecar)', durable") }
    }
  }

  /// Makes the log, and the sidecar if there is a second device.
  private func make(for count: UInt64, on devices: [FileDevice]) async throws(MirrorError) {
    let sidecar = devices.dropFirst().first
    if let sidecar, !overwrite { try await MirrorSidecar.checkIsNew(sidecar) }
    // The log first: what an old sidecar says is still needed as long as the old log counts.
    try await MirrorLog.create(
      on: devices[0], regionCount: count, isInSync: inSync, overwrites: overwrite)
    if let sidecar { try await MirrorSidecar.create(on: sidecar, overwrites: overwrite) }
  }

  /// A file or device that something is to be made in.
  private struct Place {
    let device: FileDevice
    let isNew: Bool

    static func all(
      _ wanted: [(path: String, byteCount: UInt64)], leg: String?, on loop: IOLoop
    ) throws(Refusal) -> [Place] {
      var places: [Place] = []
      do throws(Refusal) {
        for (path, byteCount) in wanted {
          places.append(try Place(path, byteCount: byteCount, leg: leg, on: loop))
        }
      } catch {
        remove(places)
        throw error
      }
      return places
    }

    /// Removes those that weren't there before.
    static func remove(_ places: [Place]) {
      for place in places where place.isNew { unlink(place.device.name) }
    }

    private init(_ path: String, byteCount: UInt64, leg: String?, on loop: IOLoop) throws(Refusal) {
      isNew = !FileManager.default.fileExists(atPath: path)
      guard isNew else {
        if let leg, isSameFile(leg, path) {
          throw Refusal("'\(leg)' and '\(path)' are the same device")
        }
        device = try [path].openAll(isWritable: true, force: false, on: loop)[0]
        return
      }
      do throws(IOFailure) {
        device = try FileDevice.create(path, byteCount: byteCount, on: loop)
      } catch {
        throw Refusal("cannot create '\(path)': \(error.reason)")
      }
    }
  }
}

/// The length of a mirror: that of a leg, or as said.
func mirrorLength(leg: String?, size: String?, on loop: IOLoop) throws(Refusal) -> Sector {
  switch (leg, size) {
  case (let leg?, nil):
    return try openDevice(leg, .init(isWritable: false, isExclusive: false), on: loop).sectorCount
  case (nil, let size?): return try Sector(size, option: "--size")
  default: throw Refusal("give the length of the mirror: --for with a leg, or --size")
  }
}

struct MirrorInfoCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "info", abstract: "Show what a mirror log says.")

  @Argument(help: ArgumentHelp("The log device.", valueName: "log"))
  var log: String

  @Option(name: .customLong("for"), help: "A leg, to compare its length with the log.")
  var leg: String?

  @Option(help: "The length of the mirror, if no leg is given.")
  var size: String?

  @Option(help: "Size of a region, a power of two; needed with --for or --size.")
  var region: String?

  @Option(help: "The mirror's sidecar: also show where it says that other legs are right.")
  var sidecar: String?

  @Flag(help: "Print the result as JSON.")
  var json = false

  private struct Document: Encodable {
    struct Run: Encodable {
      let region: UInt64
      let count: UInt64
    }
    /// A sidecar; its legs are counted from 0.
    struct Beside: Encodable {
      struct Run: Encodable {
        let region: UInt64
        let count: UInt64
        let legs: [Int]
      }
      let path: String
      let legs: Int?
      let regions: UInt64?
      let regionSectors: UInt64?
      let right: [Run]
    }

    let log: String
    let version: UInt32
    let regions: UInt64?
    let inspected: UInt64
    let clean: UInt64
    let dirty: [Run]
    let sidecar: Beside?
  }

  func run() async throws {
    let loop = try startLoop()
    var count: UInt64?
    if leg != nil || size != nil {
      guard let region else { throw Refusal("--region: give it with --for or --size") }
      count = try regionSize(region).count(in: try mirrorLength(leg: leg, size: size, on: loop))
    }
    let device = try [log].openAll(isWritable: false, force: true, on: loop)[0]
    let found: MirrorLog
    do throws(MirrorError) {
      found = try await MirrorLog(of: device, regionCount: count)
    } catch {
      throw Refusal(error.description)
    }
    let beside = try await readSidecar(on: loop)
    let right = beside?.runs(dirtyIn: found) ?? []
    // A log with every second region dirty would fill the memory as a list.
    let limit = json ? 1 << 20 : 9
    let runs = found.dirtyRuns(limit: limit)
    if json {
      return Output.say(
        try encodeJSON(
          Document(
            log: log, version: found.version, regions: found.regionCount,
            inspected: found.inspectedCount, clean: found.cleanCount,
            dirty: runs.map {
              .init(region: $0.lowerBound.rawValue, count: UInt64($0.count))
            }, sidecar: document(beside, right))))
    }
    var rows = [
      ["log", log], ["version", "\(found.version)"],
      ["regions", found.regionCount.map { "\($0)" } ?? "as many as there are"],
      ["clean", "\(found.cleanCount) of \(found.inspectedCount)"],
    ]
    if let count, let known = found.regionCount, known != count {
      rows.append([
        "beware",
        "the mirror would have \(count) regions: "
          + (count > known
            ? "those behind \(known) would be copied" : "what is said of those behind is dropped")
          + "; is the region size right?",
      ])
    }
    if !runs.isEmpty {
      let more = runs.count > 8 ? " and more" : ""
      rows.append(["to be copied", runs.prefix(8).map(Self.words).joined(separator: ", ") + more])
    }
    if let beside { rows += Self.rows(beside, right, of: found) }
    Output.say(Format.table(rows))
  }

  private static func words(_ regions: Range<Region>) -> String {
    regions.count == 1
      ? "\(regions.lowerBound.rawValue)"
      : "\(regions.lowerBound.rawValue)–\(regions.upperBound.rawValue - 1)"
  }

  // MARK: The sidecar

  private func readSidecar(on loop: IOLoop) async throws(Refusal) -> MirrorSidecar? {
    guard let sidecar else { return nil }
    if isSameFile(sidecar, log) {
      throw Refusal("'\(log)' and '\(sidecar)' are the same device")
    }
    let device = try [sidecar].openAll(isWritable: false, force: true, on: loop)[0]
    do throws(MirrorError) {
      return try await MirrorSidecar(of: device)
    } catch {
      throw Refusal(error.description)
    }
  }

  private func document(
    _ found: MirrorSidecar?, _ right: [MirrorSidecar.Run]
  ) -> Document.Beside? {
    guard let found, let sidecar else { return nil }
    return .init(
      path: sidecar, legs: found.legCount, regions: found.regionCount,
      regionSectors: found.regionSize?.rawValue,
      right: right.map {
        .init(
          region: $0.regions.lowerBound.rawValue, count: UInt64($0.regions.count),
          legs: $0.holders.sorted())
      })
  }

  private static func rows(
    _ sidecar: MirrorSidecar, _ right: [MirrorSidecar.Run], of log: MirrorLog
  ) -> [[String]] {
    guard let legs = sidecar.legCount, let regions = sidecar.regionCount,
      let size = sidecar.regionSize
    else { return [["sidecar", "new: the first leg is right"]] }
    var rows = [
      ["sidecar", "\(legs) legs, \(regions) regions of \(size.rawValue) sectors"]
    ]
    if let known = log.regionCount, known != regions {
      rows.append(["beware", "the sidecar is for another number of regions than the log"])
    }
    for run in right.prefix(8) {
      let legs = run.holders.sorted().map { "\($0)" }.joined(separator: ", ")
      rows.append(["right", "\(words(run.regions)): \(legs.isEmpty ? "unknown" : "leg \(legs)")"])
    }
    if right.count > 8 { rows.append(["right", "and more"]) }
    if right.isEmpty { rows.append(["right", "the first leg"]) }
    return rows
  }
}
