import ArgumentParser
import BlockIO
import Kcopyd

struct CompareCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare",
    abstract: "Compare two files or disks by sector.",
    discussion: "Exit status 0: the same; 1: they differ, or a part couldn't be read.")

  @Argument(help: ArgumentHelp("File or block device.", valueName: "first"))
  var first: String

  @Argument(help: ArgumentHelp("File or block device.", valueName: "second"))
  var second: String

  @Option(help: "First sector of the first one. (default: 0)")
  var from: String?

  @Option(help: "First sector of the second one. (default: 0)")
  var to: String?

  @Option(help: "How many sectors to compare. (default: up to the ends)")
  var count: String?

  @OptionGroup var options: EngineOptions

  func run() async throws {
    let from = try from.map { try Sector($0, option: "--from") } ?? .zero
    let to = try to.map { try Sector($0, option: "--to") } ?? .zero
    let count = try count.map { try Sector($0, option: "--count") }
    if count == .zero { throw Refusal("--count: must be more than 0") }
    let engine = try await options.makeEngine(from: [first, second])
    let one = try await open(first, on: engine.loop)
    let two = try await open(second, on: engine.loop)
    let rests = (try rest(of: one, from, "--from"), try rest(of: two, to, "--to"))
    let length = count ?? min(rests.0, rests.1)
    guard length <= rests.0, length <= rests.1 else {
      throw Refusal("--count: reaches behind the end of '\(length > rests.0 ? first : second)'")
    }
    let result = try await compare(
      IORegion(one, sector: from, count: length), IORegion(two, sector: to, count: length), engine)
    let sizesDiffer =
      count == nil && one.byteCount - from.bytes != two.byteCount - to.bytes
    try show(result, sizesDiffer ? (one.byteCount, two.byteCount) : nil)
  }

  /// Reading alone harms nobody, and both may be the same disk: never exclusive.
  private func open(_ path: String, on loop: IOLoop) async throws(Refusal) -> any BlockDevice {
    if let export = try await openExport(path, writable: false) { return export }
    do throws(IOFailure) {
      return try FileDevice.open(
        path, .init(isWritable: false, direct: options.direct, isExclusive: false), on: loop)
    } catch {
      throw Refusal(error.description)
    }
  }

  private func rest(
    of device: any BlockDevice, _ start: Sector, _ option: String
  ) throws(Refusal) -> Sector {
    guard start < device.sectorCount || start == .zero else {
      throw Refusal(
        "\(option): sector \(start.rawValue) is behind the end of '\(device.name)',"
          + " which has \(device.sectorCount.rawValue) sectors")
    }
    return device.sectorCount - start
  }

  private func compare(
    _ one: IORegion, _ two: IORegion, _ engine: Engine
  ) async throws(Refusal) -> ComparisonResult {
    do throws(KcopydError) {
      return try await engine.client.compare(one, two)
    } catch {
      throw Refusal(error.description)
    }
  }

  private func show(_ result: ComparisonResult, _ sizes: (UInt64, UInt64)?) throws {
    if options.json {
      Output.say(try json(result, sizes))
    } else if !options.quiet || !result.isEqual {
      for line in lines(result, sizes) { Output.say(line) }
    }
    if !result.isEqual || sizes != nil { throw Ended(status: 1) }
  }

  private func lines(_ result: ComparisonResult, _ sizes: (UInt64, UInt64)?) -> [String] {
    var lines: [String] = []
    if let sector = result.first {
      lines.append(
        "'\(first)' and '\(second)' differ: first at sector \(sector.rawValue),"
          + " \(result.differing.rawValue) of \(result.compared.rawValue) sectors")
      let isAll = result.ranges.ranges.count < ComparisonResult.maximumRanges
      lines.append("  \(Format.ranges(result.ranges, limit: 8))" + (isAll ? "" : " …"))
    }
    for log in [result.readFailures.0, result.readFailures.1] {
      lines += log.entries.prefix(10).map { "  \($0.failure)" }
    }
    if let sizes {
      lines.append(
        "the sizes differ: '\(first)' has \(sizes.0) bytes, '\(second)' has \(sizes.1)")
    }
    if lines.isEmpty {
      lines.append("the same: \(result.compared.rawValue) sectors")
    }
    return lines
  }

  private struct Document: Encodable {
    let equal: Bool
    let sectorsCompared: UInt64
    let sectorsDiffering: UInt64
    let firstDifference: UInt64?
    let unreadableSectors: UInt64
    let bytes: [UInt64]?
  }

  private func json(_ result: ComparisonResult, _ sizes: (UInt64, UInt64)?) throws -> String {
    var unreadable = result.readFailures.0.sectors
    unreadable.formUnion(result.readFailures.1.sectors)
    return try encodeJSON(
      Document(
        equal: result.isEqual && sizes == nil, sectorsCompared: result.compared.rawValue,
        sectorsDiffering: result.differing.rawValue, firstDifference: result.first?.rawValue,
        unreadableSectors: unreadable.sectorCount.rawValue,
        bytes: sizes.map { [$0.0, $0.1] }))
  }
}
