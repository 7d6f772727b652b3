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

  @Flag(help: "All legs hold the same already: nothing is to be copied.")
  var inSync = false

  @Flag(help: "Overwrite a log that is there.")
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
    let isNew = !FileManager.default.fileExists(atPath: log)
    let device = isNew ? try make(count, on: loop) : try openExisting(on: loop)
    do throws(MirrorError) {
      try await MirrorLog.create(
        on: device, regionCount: count, isInSync: inSync, overwrites: overwrite)
    } catch {
      if isNew { unlink(log) }
      let hint = if case .state = error { "; --overwrite ends it" } else { "" }
      throw Refusal(error.description + hint)
    }
    if !quiet {
      Output.say(
        "made a log for \(count) regions of \(Format.bytes(region.sectors.bytes)) in '\(log)',"
          + " \(inSync ? "all in sync" : "none in sync"), durable")
    }
  }

  private func openExisting(on loop: IOLoop) throws(Refusal) -> FileDevice {
    if let leg, isSameFile(leg, log) { throw Refusal("'\(leg)' and '\(log)' are the same device") }
    return try [log].openAll(isWritable: true, force: false, on: loop)[0]
  }

  private func make(_ count: UInt64, on loop: IOLoop) throws(Refusal) -> FileDevice {
    // Whole pages, so that it can be used on disks with large blocks, too.
    let bytes = MirrorLog.length(regionCount: count, block: 4096).bytes
    do throws(IOFailure) {
      return try FileDevice.create(log, byteCount: bytes, on: loop)
    } catch {
      throw Refusal("cannot create '\(log)': \(error.reason)")
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

  @Flag(help: "Print the result as JSON.")
  var json = false

  private struct Document: Encodable {
    struct Run: Encodable {
      let region: UInt64
      let count: UInt64
    }

    let log: String
    let version: UInt32
    let regions: UInt64?
    let inspected: UInt64
    let clean: UInt64
    let dirty: [Run]
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
            })))
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
      let shown = runs.prefix(8).map {
        $0.count == 1
          ? "\($0.lowerBound.rawValue)"
          : "\($0.lowerBound.rawValue)–\($0.upperBound.rawValue - 1)"
      }
      let more = runs.count > 8 ? " and more" : ""
      rows.append(["to be copied", shown.joined(separator: ", ") + more])
    }
    Output.say(Format.table(rows))
  }
}
