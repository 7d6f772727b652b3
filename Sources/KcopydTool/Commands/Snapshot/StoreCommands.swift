import ArgumentParser
import BlockIO
import Snapshots

struct SnapshotInfoCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "info",
    abstract: "Show what a store holds, and how full it is.")

  @OptionGroup var options: StoreOptions

  private struct Document: Encodable {
    let cow: String
    let valid: Bool
    let sound: Bool
    let chunkSectors: UInt64
    let exceptions: UInt64
    let runs: Int
    let areas: UInt64
    let allocatedSectors: UInt64
    let totalSectors: UInt64
    let metadataSectors: UInt64
    let freeChunks: UInt64
    let findings: Int
  }

  func run() async throws {
    let store = try await options.inspect()
    Output.say(options.json ? try json(store) : text(store))
  }

  private func json(_ store: StoreInspection) throws -> String {
    try encodeJSON(
      Document(
        cow: options.cow, valid: store.isValid, sound: store.isSound,
        chunkSectors: store.chunkSize.sectors.rawValue, exceptions: store.exceptionCount,
        runs: store.runCount, areas: store.areaCount, allocatedSectors: store.allocated.rawValue,
        totalSectors: store.total.rawValue, metadataSectors: store.metadata.rawValue,
        freeChunks: store.freeChunks, findings: store.findings.count + store.omittedFindings))
  }

  private func text(_ store: StoreInspection) -> String {
    let chunk = store.chunkSize.sectors
    let changed = Sector(chunk.rawValue * store.exceptionCount)
    let share = Double(store.allocated.rawValue) / Double(max(1, store.total.rawValue)) * 100
    var rows = [
      ["store", options.cow],
      ["state", store.isValid ? "valid" : "invalid: the snapshot is lost"],
      ["chunk", "\(Format.bytes(chunk.bytes)) (\(chunk.rawValue) sectors)"],
    ]
    if store.isValid {
      rows += [
        [
          "changed",
          "\(store.exceptionCount) chunks in \(store.runCount) runs (\(Format.bytes(changed.bytes)))",
        ],
        [
          "in use",
          "\(Format.bytes(store.allocated.bytes)) of \(Format.bytes(store.total.bytes))"
            + " (\(Int(share)) %), \(Format.bytes(store.metadata.bytes)) of it metadata",
        ],
        ["room for", "\(store.freeChunks) more chunks"],
        [
          "status",
          "\(store.allocated.rawValue)/\(store.total.rawValue) \(store.metadata.rawValue)",
        ],
      ]
    }
    let findings = store.findings.count + store.omittedFindings
    if findings > 0 { rows.append(["findings", "\(findings); see 'kcopyd snapshot check'"]) }
    return Format.table(rows)
  }
}

struct SnapshotCheckCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Look at every number of a store, without writing anything.",
    discussion: """
      Exit status 0: sound; 1: something is seriously wrong. With --origin, exceptions are \
      compared with the size of the origin, too.
      """)

  @OptionGroup var options: StoreOptions

  private struct Document: Encodable {
    struct Finding: Encodable {
      let severity: String
      let offset: UInt64
      let text: String
    }

    let cow: String
    let sound: Bool
    let exceptions: UInt64
    let findings: [Finding]
    let omitted: Int
  }

  func run() async throws {
    let store = try await options.inspect()
    if options.json {
      Output.say(
        try encodeJSON(
          Document(
            cow: options.cow, sound: store.isSound, exceptions: store.exceptionCount,
            findings: store.findings.map {
              .init(severity: $0.severity.rawValue, offset: $0.offset, text: $0.text)
            }, omitted: store.omittedFindings)))
    } else {
      for finding in store.findings {
        Output.say("\(finding.severity.rawValue): byte \(finding.offset): \(finding.text)")
      }
      if store.omittedFindings > 0 { Output.say("and \(store.omittedFindings) more") }
      Output.say(
        store.isSound
          ? "sound: \(store.exceptionCount) exceptions in \(store.areaCount) areas"
          : "not sound: \(store.exceptionCount) exceptions could be read")
    }
    if !store.isSound { throw Ended(status: 1) }
  }
}

struct SnapshotMapCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "map",
    abstract: "List the extents in which snapshot and origin may differ.",
    discussion: """
      One line each: first sector, number of sectors, and the first of as many sectors on the COW \
      device that hold the snapshot's content. Everything else is the same in both: what has to \
      be read for an incremental backup.
      """)

  @OptionGroup var options: StoreOptions

  private struct Extent: Encodable {
    let start: UInt64
    let length: UInt64
    let cow: UInt64
  }

  func run() async throws {
    let store = try await options.inspect()
    guard store.isValid, store.isSound else {
      throw Refusal(
        "'\(options.cow)' can't be relied on: \(store.findings.first?.text ?? "it is damaged")"
          + "; see 'kcopyd snapshot check'")
    }
    var extents: [Extent] = []
    store.forEachChange { change in
      extents.append(
        Extent(
          start: change.origin.lowerBound.rawValue, length: change.origin.length.rawValue,
          cow: change.cow.rawValue))
    }
    if options.json { return Output.say(try encodeJSON(extents)) }
    let lines = extents.map { "\($0.start) \($0.length) \($0.cow)" }
    if !lines.isEmpty { Output.say(lines.joined(separator: "\n")) }
  }
}
