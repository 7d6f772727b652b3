import ArgumentParser
import BlockIO
import Foundation
import Mirrors

struct MirrorCheckCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Compare the legs of a mirror, and make them the same on request.",
    discussion: """
      With a log only regions that it calls clean are compared: the others are known to differ, \
      and sync is for them. With a sidecar and no log, regions of which it says that another leg \
      than the first is right are left out, also by --repair. Exit status 0: the same, or made so; \
      1: they differ, or a part couldn't be read or was left out.
      """)

  @OptionGroup var options: MirrorOptions

  @Flag(help: "Copy what differs from the first leg to the others.")
  var repair = false

  private struct Document: Encodable {
    struct Range: Encodable {
      let sector: UInt64
      let count: UInt64
    }
    struct Leg: Encodable {
      let path: String
      let differing: [Range]
    }

    let equal: Bool
    let sectorsCompared: UInt64
    let legs: [Leg]
    let outOfSync: [Range]
    let leftOut: [Range]
    let unreadable: [Range]
    let repaired: [Range]
  }

  func run() async throws {
    let loop = try startLoop()
    let log = try options.openLog(isWritable: false, on: loop)
    let legs = try options.open(isWritable: repair, on: loop)
    let sidecar = try await options.openSidecar(isWritable: false, of: legs, on: loop)
    // Where the log says that all legs are the same, what the sidecar says is from before.
    let (dirty, leftOut) =
      if let log {
        (try await dirtySectors(log, of: legs), RangeSet<Sector>())
      } else {
        (RangeSet<Sector>(), try sectorsRightElsewhere(sidecar?.content, of: legs))
      }
    let skipped = dirty.union(leftOut)
    // A mirror in memory in which everything counts as the same: nothing is copied by itself.
    let mirror = try options.mirror(legs, log: nil, sync: .nosync, on: loop)
    try await mirror.resume()
    let result = await Self.untilInterrupted {
      await mirror.compare(repairs: repair, skipping: skipped)
    }
    if repair {
      do throws(IOFailure) { try await mirror.flush() } catch { throw Refusal(error.description) }
    }
    await mirror.suspend()
    try report(result, dirty, leftOut, legs)
    if result.compared + skipped.sectorCount + result.outOfSync.sectorCount < mirror.sectorCount {
      Output.note("interrupted: \(result.compared.rawValue) sectors were compared")
      throw Ended(status: 130)
    }
  }

  /// Runs a task that an interruption cancels: it ends in order then.
  private static func untilInterrupted<R: Sendable>(
    _ body: @escaping @Sendable () async -> R
  ) async -> R {
    let interruption = Interruption()
    let task = Task { await body() }
    interruption.handle { task.cancel() }
    return await task.value
  }

  private func dirtySectors(
    _ log: FileDevice, of legs: [FileDevice]
  ) async throws(Refusal) -> RangeSet<Sector> {
    try sectors(of: try await options.readLog(log, of: legs).dirtyRuns(), of: legs)
  }

  /// Where the sidecar says that the first leg isn't right, or that it isn't known which one is.
  private func sectorsRightElsewhere(
    _ sidecar: MirrorSidecar?, of legs: [FileDevice]
  ) throws(Refusal) -> RangeSet<Sector> {
    let runs = sidecar?.runs.filter { !$0.holders.contains(0) } ?? []
    return try sectors(of: runs.map(\.regions), of: legs)
  }

  private func sectors(
    of runs: [Range<Region>], of legs: [FileDevice]
  ) throws(Refusal) -> RangeSet<Sector> {
    let region = try regionSize(options.region).sectors
    let length = legs.map(\.sectorCount).min() ?? .zero
    var sectors = RangeSet<Sector>()
    for run in runs {
      let start = region * run.lowerBound.rawValue
      sectors.insert(start..<min(length, start + region * UInt64(run.count)))
    }
    return sectors
  }

  private func report(
    _ result: MirrorComparison, _ dirty: RangeSet<Sector>, _ leftOut: RangeSet<Sector>,
    _ legs: [FileDevice]
  ) throws {
    if options.json {
      Output.say(
        try encodeJSON(
          Document(
            equal: result.isEqual, sectorsCompared: result.compared.rawValue,
            legs: legs.indices.map {
              .init(
                path: options.legs[$0], differing: ranges(result.differences[$0] ?? RangeSet()))
            }, outOfSync: ranges(dirty), leftOut: ranges(leftOut),
            unreadable: ranges(result.unreadable), repaired: ranges(result.repaired))))
    } else if !options.quiet || !result.isEqual || !leftOut.isEmpty {
      for index in legs.indices {
        guard let found = result.differences[index] else { continue }
        Output.say(
          "'\(options.legs[index])' differs in \(found.sectorCount.rawValue) sectors:"
            + " \(Format.ranges(found, limit: 8))")
      }
      if !dirty.isEmpty {
        Output.say("out of sync, not compared: \(Format.ranges(dirty, limit: 8))")
      }
      if !leftOut.isEmpty {
        Output.say(
          "left out, as the sidecar says that another leg is right there:"
            + " \(Format.ranges(leftOut, limit: 8)); give the log, and sync them")
      }
      if !result.unreadable.isEmpty {
        Output.say("unreadable: \(Format.ranges(result.unreadable, limit: 8))")
      }
      if !result.repaired.isEmpty {
        Output.say("made the same: \(result.repaired.sectorCount.rawValue) sectors, durable")
      }
      if result.isEqual { Output.say("the same: \(result.compared.rawValue) sectors") }
    }
    let left = result.differences.values.reduce(into: RangeSet<Sector>()) { $0.formUnion($1) }
      .subtracting(result.repaired)
    if !left.isEmpty || !result.unreadable.isEmpty || !leftOut.isEmpty { throw Ended(status: 1) }
  }

  private func ranges(_ set: RangeSet<Sector>) -> [Document.Range] {
    set.ranges.map { .init(sector: $0.lowerBound.rawValue, count: $0.length.rawValue) }
  }
}
