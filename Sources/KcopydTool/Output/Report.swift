import BlockIO
import Foundation
import Kcopyd
import SystemPackage

/// The account of a job: what is where, what isn't, and why.
struct Report {
  let result: CopyResult
  let names: [String]
  /// The bytes of the job; fewer than its sectors hold where the source ends within one.
  let byteCount: UInt64
  let progress: CopyProgress.Snapshot
  var flushFailures: [Int: IOFailure]
  let isSynced: Bool
  let duration: Duration
  let wasInterrupted: Bool
  /// Hashes, what was read back, what is allocated.
  var content = ContentAccount()

  /// Whether every destination holds everything, durably if that was wanted.
  var isGood: Bool { isCopied && content.isGood }

  private var isCopied: Bool { result.isComplete && flushFailures.isEmpty }

  /// The exit status it makes.
  var status: Int32 { isGood ? 0 : wasInterrupted ? 130 : 1 }

  /// What destination `index` holds, in bytes.
  func writtenBytes(_ index: Int) -> UInt64 {
    let missing = result.destinations[index].missing
    if missing.isEmpty { return byteCount }
    var written = result.written(index).sectorCount.bytes
    // The last sector may be a begun one.
    if !missing.contains(result.count - 1) { written -= result.count.bytes - byteCount }
    return written
  }

  /// Whether what destination `index` holds is durable.
  func isDurable(_ index: Int) -> Bool { isSynced && flushFailures[index] == nil }

  // MARK: Text

  /// The account in words.
  func text(verb: String) -> String {
    guard !isCopied else {
      return ([success(verb: verb)] + content.troubles(names)).joined(separator: "\n")
    }
    var lines = [headline(verb: verb), Format.table(rows)]
    lines += readErrors
    lines += content.troubles(names)
    return lines.joined(separator: "\n")
  }

  private func success(verb: String) -> String {
    let seconds = max(Double(duration.nanoseconds) / 1e9, 1e-9)
    let places = names.count == 1 ? "'\(names[0])'" : "\(names.count) destinations"
    return "\(verb) \(Format.bytes(byteCount)) to \(places) in \(Format.duration(duration))"
      + " (\(Format.rate(Double(byteCount) / seconds)))"
      + ([isSynced ? ", durable" : ", not synced"] + content.successes(progress))
      .joined(separator: ", ")
  }

  private func headline(verb: String) -> String {
    let good = names.indices.count { result.destinations[$0].missing.isEmpty && isComplete($0) }
    let cause = wasInterrupted ? "interrupted" : "ended with errors"
    return "\(cause) after \(Format.duration(duration)): \(good) of \(names.count)"
      + (names.count == 1 ? " destination is" : " destinations are") + " complete"
  }

  private func isComplete(_ index: Int) -> Bool {
    result.destinations[index].failures.isEmpty && flushFailures[index] == nil
      && result.readFailures.isEmpty
  }

  /// Sectors are counted from the start of the copied region.
  private var rows: [[String]] {
    [["DESTINATION", "HOLDS", "DURABLE", "MISSING SECTORS", "REASON"]]
      + names.indices.map { index in
        let destination = result.destinations[index]
        let missing = destination.missing
        return [
          names[index], Format.bytes(writtenBytes(index)),
          !isSynced ? "not synced" : isDurable(index) ? "yes" : "no",
          missing.isEmpty ? "none" : Format.ranges(missing), reason(index),
        ]
      }
  }

  private func reason(_ index: Int) -> String {
    let destination = result.destinations[index]
    var reasons = destination.failures.ascending.prefix(2).map {
      "\($0.failure.operation.rawValue) of \($0.failure.sectors?.label ?? "it"): "
        + $0.failure.reason
    }
    let more = destination.failures.entries.count - reasons.count + destination.failures.omitted
    if more > 0 { reasons.append("\(more) more") }
    if let failure = flushFailures[index] { reasons.append("flush: \(failure.reason)") }
    if reasons.isEmpty, !destination.missing.isEmpty {
      reasons.append(wasInterrupted ? "interrupted" : "not reached")
    }
    return reasons.isEmpty ? "–" : reasons.joined(separator: "; ")
  }

  private var readErrors: [String] {
    guard result.readError else { return [] }
    let place = result.ending == .finished ? " (written as zeros)" : ""
    let shown = result.readFailures.ascending.prefix(10).map { "  \($0.failure)" }
    let more = result.readFailures.entries.count - shown.count + result.readFailures.omitted
    return ["unreadable\(place): \(result.readFailures.sectors.sectorCount.rawValue) sectors"]
      + shown + (more > 0 ? ["  and \(more) more ranges"] : [])
  }
}

// MARK: JSON

extension Report {
  private struct Document: Encodable {
    struct Range: Encodable {
      let sector: UInt64
      let count: UInt64
    }
    struct Failure: Encodable {
      let sectors: Range
      let reason: String
      let errno: Int32
    }
    struct Destination: Encodable {
      let path: String
      let bytesWritten: UInt64
      let durable: Bool
      let complete: Bool
      let missing: [Range]
      let errors: [Failure]
      let flushError: String?
      let bytesZeroed: UInt64
      let bytesEqual: UInt64
      let bytesAllocated: UInt64?
      let cloned: Bool
      let verified: ContentAccount.VerifiedDocument?
    }

    let ending: String
    let bytes: UInt64
    let seconds: Double
    let readErrors: [Failure]
    let destinations: [Destination]
    let hash: ContentAccount.HashDocument?
  }

  /// The account for programs. Sectors are counted from the start of the copied region.
  func json() throws -> String {
    let document = Document(
      ending: wasInterrupted && !isGood ? "interrupted" : isGood ? "complete" : "errors",
      bytes: byteCount, seconds: Double(duration.nanoseconds) / 1e9,
      readErrors: failures(result.readFailures),
      destinations: names.indices.map { index in
        let destination = result.destinations[index]
        return .init(
          path: names[index], bytesWritten: writtenBytes(index), durable: isDurable(index),
          complete: destination.missing.isEmpty && isComplete(index),
          missing: destination.missing.ranges.map(range),
          errors: failures(destination.failures), flushError: flushFailures[index]?.reason,
          bytesZeroed: progress.destinations[index].zeroed,
          bytesEqual: progress.destinations[index].equal,
          bytesAllocated: content.allocated.isEmpty ? nil : content.allocated[index],
          cloned: content.cloned.contains(index), verified: content.verifiedDocument(index))
      }, hash: content.hashDocument)
    return try encodeJSON(document)
  }

  private func range(_ sectors: Range<Sector>) -> Document.Range {
    .init(sector: sectors.lowerBound.rawValue, count: sectors.length.rawValue)
  }

  private func failures(_ log: FailureLog) -> [Document.Failure] {
    log.ascending.map {
      .init(
        sectors: range($0.sectors), reason: $0.failure.reason, errno: $0.failure.errno.rawValue)
    }
  }
}

extension FailureLog {
  /// The reasons by place; they are kept in the order in which they came.
  var ascending: [Entry] {
    entries.sorted { $0.sectors.lowerBound < $1.sectors.lowerBound }
  }
}

/// A value as JSON that people can read as well.
func encodeJSON(_ value: some Encodable) throws -> String {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
  return String(decoding: try encoder.encode(value), as: UTF8.self)
}
