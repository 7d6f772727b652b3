public import BlockIO
import Synchronization
import SystemPackage

/// `dust DEVICE START BLOCK`: blocks go bad and good again by message.
public final class DustTarget: Target {
  public let sectors: Range<Sector>
  private let mapping: Mapping
  private let deviceName: String
  private let blockSectors: UInt64
  private let state = Mutex(State())

  private struct State {
    var isEnabled = false
    var isQuiet = false
    /// Bad blocks, each with how many writes to it are still to fail.
    var bad: [UInt64: UInt8] = [:]
  }

  init(_ context: TargetContext, _ mapping: Mapping, blockSectors: UInt64) {
    sectors = context.sectors
    deviceName = context.deviceName
    self.mapping = mapping
    self.blockSectors = blockSectors
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "dust"
    public let version = "1.0.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      var arguments = context.arguments
      let mapping = try await arguments.mapping()
      let block: UInt64 = try arguments.number("block size in bytes", in: 512...(1 << 30))
      guard block.nonzeroBitCount == 1 else {
        throw arguments.last.refused("a block of \(block) bytes is no power of two")
      }
      guard block / 512 <= context.sectors.length.rawValue else {
        throw arguments.last.refused("a block of \(block) bytes is larger than the target")
      }
      try arguments.finish()
      return DustTarget(context, mapping, blockSectors: block / 512)
    }
  }

  public var limits: DeviceLimits? { mapping.device.limits }

  // MARK: Requests

  /// The bad blocks that sectors of the target touch, ascending, each with its sectors.
  private func badParts(_ sectors: Range<Sector>, _ state: State) -> [(UInt64, Range<Sector>)] {
    guard state.isEnabled, !state.bad.isEmpty, !sectors.isEmpty else { return [] }
    let below = mapping.below(sectors)
    let first = below.lowerBound.rawValue / blockSectors
    let last = (below.upperBound.rawValue - 1) / blockSectors
    let blocks =
      last - first < UInt64(state.bad.count)
      ? (first...last).filter { state.bad[$0] != nil }
      : state.bad.keys.filter { first...last ~= $0 }.sorted()
    return blocks.map { block in
      let part = (Sector(block * blockSectors)..<Sector((block + 1) * blockSectors))
        .clamped(to: below)
      let start = sectors.lowerBound + (part.lowerBound - below.lowerBound)
      return (block, start..<start + part.length)
    }
  }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    guard let bad = state.withLock({ badParts(sectors, $0).first }) else {
      return try await mapping.read(sectors, into: buffer)
    }
    let good = sectors.lowerBound..<bad.1.lowerBound
    if !good.isEmpty { try await mapping.read(good, into: buffer.slice(.zero, good.length)) }
    throw failure(.read, bad.1.lowerBound..<sectors.upperBound, block: bad.0)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    let failing = failingWrites(sectors)
    guard let first = failing.first else {
      return try await mapping.write(sectors, from: buffer, options: options)
    }
    var start = sectors.lowerBound
    for (_, part) in failing + [(0, sectors.upperBound..<sectors.upperBound)] {
      let good = start..<part.lowerBound
      start = part.upperBound
      if good.isEmpty { continue }
      try await mapping.write(
        good, from: buffer.slice(good.lowerBound - sectors.lowerBound, good.length),
        options: options)
    }
    throw failure(.write, first.1.lowerBound..<sectors.upperBound, block: first.0)
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    if let first = failingWrites(sectors).first {
      throw failure(.writeZeroes, sectors, block: first.0)
    }
    try await mapping.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  /// The blocks to which this write fails; those to which it doesn't are good from now on.
  private func failingWrites(_ sectors: Range<Sector>) -> [(UInt64, Range<Sector>)] {
    state.withLock { state in
      badParts(sectors, state).filter { block, _ in
        guard let left = state.bad[block], left > 0 else {
          state.bad[block] = nil
          return false
        }
        state.bad[block] = left - 1
        return true
      }
    }
  }

  private func failure(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>, block: UInt64
  ) -> IOFailure {
    IOFailure(
      operation, deviceName, sectors, errno: .ioError, detail: "block \(block) is a bad one")
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await mapping.discard(sectors)
  }

  public func flush() async throws(IOFailure) { try await mapping.flush() }

  // MARK: Messages

  public func message(_ words: [String]) async throws(DeviceMapperError) -> String? {
    let command = words[0].lowercased()
    switch (command, words.count) {
    case ("enable", 1), ("disable", 1):
      state.withLock { $0.isEnabled = command == "enable" }
      return nil
    case ("quiet", 1):
      state.withLock { $0.isQuiet.toggle() }
      return nil
    case ("countbadblocks", 1):
      return "countbadblocks: \(state.withLock { $0.bad.count }) badblock(s) found"
    case ("clearbadblocks", 1):
      let count = state.withLock { state in
        defer { state.bad = [:] }
        return state.bad.count
      }
      return "dust_clear_badblocks: " + (count > 0 ? "badblocks cleared" : "no badblocks found")
    case ("listbadblocks", 1):
      let blocks = state.withLock { $0.bad.keys.sorted() }
      return blocks.isEmpty
        ? "No blocks in badblocklist" : blocks.map(String.init).joined(separator: "\n")
    case ("addbadblock", 2...3), ("removebadblock", 2), ("queryblock", 2):
      return try change(command, try block(words[1]), words.dropFirst(2).first)
    default:
      throw DeviceMapperError(
        .message, "dust takes no message '\(words.joined(separator: " "))'",
        advice: "there are enable, disable, addbadblock BLOCK [COUNT], removebadblock BLOCK,"
          + " queryblock BLOCK, countbadblocks, listbadblocks, clearbadblocks, quiet")
    }
  }

  private func block(_ word: String) throws(DeviceMapperError) -> UInt64 {
    let most = mapping.device.sectorCount.rawValue / blockSectors
    guard let block = UInt64(word), block <= most else {
      throw DeviceMapperError(.message, "'\(word)' is no block; 0 to \(most) are possible")
    }
    return block
  }

  private func change(
    _ command: String, _ block: UInt64, _ count: String?
  ) throws(DeviceMapperError) -> String? {
    switch command {
    case "addbadblock":
      guard let failures = UInt8(count ?? "0") else {
        throw DeviceMapperError(
          .message, "'\(count ?? "")' is no number of failing writes; 0 to 255 are possible")
      }
      let isNew = state.withLock { state in
        guard state.bad[block] == nil else { return false }
        state.bad[block] = failures
        return true
      }
      if !isNew { throw DeviceMapperError(.message, "block \(block) is in the list already") }
      return nil
    case "removebadblock":
      guard state.withLock({ $0.bad.removeValue(forKey: block) }) != nil else {
        throw DeviceMapperError(.message, "block \(block) isn't in the list")
      }
      return nil
    default:
      let isBad = state.withLock { $0.bad[block] != nil }
      return "dust_query_block: block \(block) \(isBad ? "found" : "not found") in badblocklist"
    }
  }

  public func status(_ labels: DeviceLabels) async -> String {
    let (isEnabled, isQuiet) = state.withLock { ($0.isEnabled, $0.isQuiet) }
    return "\(labels(mapping.opened)) \(isEnabled ? "fail_read_on_bad_block" : "bypass")"
      + " \(isQuiet ? "quiet" : "verbose")"
  }

  public func table(_ labels: DeviceLabels) async -> String {
    "\(mapping.words(labels)) \(blockSectors * 512)"
  }
}
