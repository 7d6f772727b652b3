import ArgumentParser
import BlockIO
import Foundation
import Mirrors

struct MirrorCheckCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Compare the legs of a mirror, and make them the same on request.",
    discussion: """
      With a log only regions that it calls clean are compared: the others are known to differ. \
      Exit status 0: the same, or made so; 1: they differ, or a part couldn't be read.
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
    let unreadable: [Range]
    let repaired: [Range]
  }

  func run() async throws {
    let loop = try startLoop()
    let log = try options.openLog(isWritable: false, on: loop)
    let legs = try options.open(isWritable: repair, on: loop)
    var dirty = RangeSet<Sector>()
    if let log { dirty = try await dirtySectors(log, of: legs) }
    // A mirror in memory in which everything counts as the same: nothing is copied by itself.
    let mirror = try options.mirror(legs, log: nil, sync: .nosync, on: loop)
    try await mirror.resume()
    let result = await Self.untilInterrupted { [dirty] in
      await mirror.compare(repairs: repair, skipping: dirty)
    }
    if repair {
      do throws(IOFailure) { try await mirror.flush() } catch { throw Refusal(error.description) }
    }
    await mirror.suspend()
    try report(result, dirty, legs)
    if result.compared + dirty.sectorCount + result.outOfSync.sectorCount < mirror.sectorCount {
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
    let region = try regionSize(options.region).sectors
    let length = legs.map(\.sectorCount).min() ?? .zero
    var dirty = RangeSet<Sector>()
    for run in try await options.readLog(log, of: legs).dirtyRuns() {
      let start = region * run.lowerBound.rawValue
      dirty.insert(start..<min(length, start + region * UInt64(run.count)))
    }
    return dirty
  }

  private func report(
    _ result: MirrorComparison, _ dirty: RangeSet<Sector>, _ legs: [FileDevice]
  ) throws {
    if options.json {
      Output.say(
        try encodeJSON(
          Document(
            equal: result.isEqual, sectorsCompared: result.compared.rawValue,
            legs: legs.indices.map {
              .init(
                path: options.legs[$0], differing: ranges(result.differences[$0] ?? RangeSet()))
            }, outOfSync: ranges(dirty), unreadable: ranges(result.unreadable),
            repaired: ranges(result.repaired))))
    } else if !options.quiet || !result.isEqual {
      for index in legs.indices {
        guard let found = result.differences[index] else { continue }
        Output.say(
          "'\(options.legs[index])' differs in \(found.sectorCount.rawValue) sectors:"
            + " \(Format.ranges(found, limit: 8))")
      }
      if !dirty.isEmpty {
        Output.say("out of sync, not compared: \(Format.ranges(dirty, limit: 8))")
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
    if !left.isEmpty || !result.unreadable.isEmpty { throw Ended(status: 1) }
  }

  private func ranges(_ set: RangeSet<Sector>) -> [Document.Range] {
    set.ranges.map { .init(sector: $0.lowerBound.rawValue, count: $0.length.rawValue) }
  }
}
