import BlockIO
import Foundation
import Imaging
import SystemPackage

/// The account of a copy with a map, or of a rescue: what is where, what is lost, and why.
struct ImagingReport {
  let result: ImagingResult
  let names: [String]
  /// New files whose names couldn't be made durable, by destination.
  let nameFailures: [Int: IOFailure]
  let map: String?
  let sourceName: String
  let sourceByteCount: UInt64
  let isSynced: Bool
  let wasRescue: Bool
  let duration: Duration
  let wasInterrupted: Bool
  /// Hashes, what was read back, what is allocated.
  let content: ContentAccount

  /// Whether every destination holds everything, durably if that was wanted.
  var isGood: Bool { isCopied && content.isGood }

  private var isCopied: Bool { result.isComplete && nameFailures.isEmpty }

  /// The exit status it makes.
  var status: Int32 { isGood ? 0 : result.ending == .cancelled ? 130 : 1 }

  private var all: RangeSet<Sector> { RangeSet(result.region) }

  /// Bytes of sectors of the source: the last one may be a begun one.
  private func bytes(_ sectors: RangeSet<Sector>) -> UInt64 {
    sectors.ranges.reduce(0) {
      $0 + min($1.upperBound.bytes, sourceByteCount) - $1.lowerBound.bytes
    }
  }

  private func isDurable(_ index: Int) -> Bool {
    let destination = result.destinations[index]
    return isSynced && nameFailures[index] == nil && destination.durable == destination.written
      && (destination.filled.isEmpty || destination.failure == nil)
  }

  private func isComplete(_ index: Int) -> Bool {
    result.missing(index).isEmpty && result.destinations[index].failure == nil
      && nameFailures[index] == nil
  }

  // MARK: Text

  /// The account in words.
  var text: String {
    guard !isCopied else {
      return ([success] + content.troubles(names)).joined(separator: "\n")
    }
    var lines = [headline, Format.table(rows)]
    if !result.readFailures.isEmpty {
      lines.append("\(result.readErrors) read errors")
      lines += result.readFailures.prefix(wasRescue ? 3 : 10).map { "  \($0)" }
    }
    lines += lossLines
    lines += content.troubles(names)
    if let failure = result.mapFailure {
      lines.append("the map couldn't be written: \(failure)")
      lines.append("  what it says is true, but there is more than it says")
    }
    if let map, result.ending != .finished, result.ending != .readError {
      lines.append("the same command goes on, from '\(map)'")
    }
    return lines.joined(separator: "\n")
  }

  private var success: String {
    let places = names.count == 1 ? "'\(names[0])'" : "\(names.count) destinations"
    let wanted = bytes(all)
    if result.finishedBefore == result.region.length {
      return "nothing left to do: \(places) \(names.count == 1 ? "holds" : "hold")"
        + ([" all \(Format.bytes(wanted)), durable"] + content.successes(bytes: wanted))
        .joined(separator: ", ")
    }
    let seconds = max(Double(duration.nanoseconds) / 1e9, 1e-9)
    let now = wanted - min(wanted, result.finishedBefore.bytes)
    return "copied \(Format.bytes(wanted)) to \(places)"
      + (result.finishedBefore > .zero ? ", the last \(Format.bytes(now))" : "")
      + " in \(Format.duration(duration)) (\(Format.rate(Double(now) / seconds)))"
      + ([isSynced ? ", durable" : ", not synced"] + content.successes(bytes: wanted))
      .joined(separator: ", ")
  }

  private var headline: String {
    let good = names.indices.count(where: isComplete)
    let cause =
      switch result.ending {
      case .finished: result.lost.isEmpty ? "ended with errors" : "ended with lost sectors"
      case .readError: "ended by a read error"
      case .tooManyErrors: "given up, with more read errors than --max-errors,"
      case .timeout: "given up, with nothing read within --timeout,"
      case .noDestination: "ended with errors"
      case .cancelled: "interrupted"
      }
    return "\(cause) after \(Format.duration(duration)): \(good) of \(names.count)"
      + (names.count == 1 ? " destination is" : " destinations are") + " complete"
  }

  private var rows: [[String]] {
    [["DESTINATION", "HOLDS", "DURABLE", "MISSING SECTORS", "REASON"]]
      + names.indices.map { index in
        let destination = result.destinations[index]
        let missing = result.missing(index)
        return [
          names[index], Format.bytes(bytes(destination.written)),
          !isSynced ? "not synced" : isDurable(index) ? "yes" : "no",
          missing.isEmpty ? "none" : Format.ranges(missing), reason(index),
        ]
      }
  }

  private func reason(_ index: Int) -> String {
    if let failure = result.destinations[index].failure ?? nameFailures[index] {
      return "\(failure.operation.rawValue)\(failure.sectors.map { " of \($0.label)" } ?? ""):"
        + " \(failure.reason)"
    }
    let missing = result.missing(index)
    if missing.isEmpty { return "–" }
    if missing.subtracting(result.lost).isEmpty { return "unreadable" }
    return result.ending == .cancelled ? "interrupted" : "not reached"
  }

  /// What is lost, by sectors of the source.
  private var lossLines: [String] {
    let lost = result.lost
    guard !lost.isEmpty else { return [] }
    guard wasRescue else {
      return [
        "a read error ended it, within \(Format.ranges(lost)); with --rescue it goes on around"
          + " what can't be read"
      ]
    }
    let state =
      result.destinations.contains { !$0.filled.isEmpty }
      ? "filled" : "left as they were"
    let shown = lost.ranges.prefix(20).map { "  \($0.label)" }
    let more = lost.ranges.count - shown.count
    return [
      "lost: \(lost.sectorCount.rawValue) sectors of '\(sourceName)'"
        + " (\(Format.bytes(bytes(lost)))) in \(lost.ranges.count) ranges, \(state)"
    ] + shown + (more > 0 ? ["  and \(more) more ranges; --json lists all"] : [])
  }

  // MARK: JSON

  private struct Document: Encodable {
    struct Range: Encodable {
      let sector: UInt64
      let count: UInt64
    }
    struct Failure: Encodable {
      let sectors: Range?
      let reason: String
      let errno: Int32
    }
    struct Destination: Encodable {
      let path: String
      let bytesWritten: UInt64
      let bytesAllocated: UInt64?
      let durable: Bool
      let complete: Bool
      let missing: [Range]
      let filled: [Range]
      let errors: [Failure]
      let verified: ContentAccount.VerifiedDocument?
    }

    let ending: String
    let bytes: UInt64
    let bytesBefore: UInt64
    let seconds: Double
    let readErrorCount: Int
    let readErrors: [Failure]
    let lost: [Range]
    let lostBytes: UInt64
    let map: String?
    let mapError: String?
    let destinations: [Destination]
    let hash: ContentAccount.HashDocument?
  }

  /// The account for programs. `missing` and `filled` count sectors from the start of the copied
  /// region, as without a map; `lost` and the errors count those of the device.
  func json() throws -> String {
    let first = result.region.lowerBound
    let document = Document(
      ending: isGood ? "complete" : result.ending == .cancelled ? "interrupted" : "errors",
      bytes: bytes(all), bytesBefore: min(bytes(all), result.finishedBefore.bytes),
      seconds: Double(duration.nanoseconds) / 1e9, readErrorCount: result.readErrors,
      readErrors: result.readFailures.map(failure), lost: ranges(result.lost, from: .zero),
      lostBytes: bytes(result.lost), map: map, mapError: result.mapFailure?.description,
      destinations: names.indices.map { index in
        let destination = result.destinations[index]
        let failures = [destination.failure, nameFailures[index]].compactMap { $0 }
        return .init(
          path: names[index], bytesWritten: bytes(destination.written),
          bytesAllocated: content.allocated[index], durable: isDurable(index),
          complete: isComplete(index),
          missing: ranges(result.missing(index), from: first),
          filled: ranges(destination.filled, from: first), errors: failures.map(failure),
          verified: content.verifiedDocument(index))
      }, hash: content.hashDocument)
    return try encodeJSON(document)
  }

  private func ranges(_ set: RangeSet<Sector>, from first: Sector) -> [Document.Range] {
    set.ranges.map {
      .init(sector: ($0.lowerBound - first).rawValue, count: $0.length.rawValue)
    }
  }

  private func failure(_ failure: IOFailure) -> Document.Failure {
    .init(
      sectors: failure.sectors.map {
        .init(sector: $0.lowerBound.rawValue, count: $0.length.rawValue)
      }, reason: failure.reason, errno: failure.errno.rawValue)
  }
}

/// Prints the account and ends with the status it makes.
func show(_ report: ImagingReport, _ options: WritingOptions) throws {
  if options.engine.json {
    Output.say(try report.json())
  } else {
    for line in report.content.results { Output.say(line) }
    if !report.isGood {
      Output.note(report.text)
    } else if !options.engine.quiet {
      Output.say(report.text)
    }
  }
  if report.status != 0 { throw Ended(status: report.status) }
}
