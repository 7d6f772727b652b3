import BlockIO
import DeviceMapper
import Foundation
import Logging
import NBD
import Synchronization
import SystemPackage
import Testing

@testable import Daemon

/// A keeper over real files in a folder of its own, and what may be read from its device `disk`.
final class KeeperWorld: Sendable {
  /// 1 MiB in 64 blocks of 16 KiB, the size of a snapshot's chunk.
  static let blocks = 64
  static let blockSectors = Sector(32)

  let folder: String
  let network: NetworkLoop
  let keeper: DeviceKeeper
  let server: NBDServer

  init(
    _ folder: String, logger: Logger? = nil,
    syncFolder: @escaping @Sendable (FileDescriptor) throws(Errno) -> Void = StateFolder.sync
  ) async throws {
    let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    let logger = logger ?? quiet
    self.folder = folder
    network = try await NetworkLoop.start(helpers: 1, logger: quiet)
    server = try NBDServer(on: network, logger: quiet)
    let mapper = DeviceMapper(.files(on: network.ioLoop), on: network.ioLoop)
    let states = try StateFolder("\(folder)/state", syncFolder: syncFolder)
    keeper = DeviceKeeper(
      mapper: mapper, exports: ExportKeeper(mapper, server, logger: quiet), folder: states,
      state: DaemonState(), retryDelays: .milliseconds(10) ... .milliseconds(40),
      on: network.ioLoop, logger: logger)
    try await keeper.begin(with: try states.load() ?? DaemonState(), isNew: [:])
    await keeper.takeUp()
  }

  func end() async throws {
    await keeper.shutDown()
    await network.stop()
  }

  /// The path of a file in the folder.
  func file(_ name: String) -> String { "\(folder)/\(name)" }

  /// The number in every block of a device.
  ///
  /// - Parameter possible: the numbers that each sector of a block may have; a block whose write
  ///   was under way when all ended may have old and new ones, and its first one counts.
  func numbers(of name: String, possible: [Set<UInt64>]? = nil) async throws -> [UInt64] {
    let handle = try await keeper.mapper.open(name)
    let pages = try PagePool.lend(holding: Self.blockSectors)
    let buffer = pages.buffer.slice(.zero, Self.blockSectors)
    var found: [UInt64] = []
    for block in 0..<Self.blocks {
      try await handle.device.read(Self.sectors(of: block), into: buffer)
      let number: UInt64 = buffer.integer(at: 0)
      let isWhole = (0..<Int(Self.blockSectors.rawValue)).allSatisfy {
        let other: UInt64 = buffer.integer(at: $0 * 512)
        return other == number || possible?[block].isSuperset(of: [other, number]) == true
      }
      #expect(isWhole, "block \(block) of '\(name)' is torn")
      found.append(number)
    }
    await handle.close()
    return found
  }

  static func sectors(of block: Int) -> Range<Sector> {
    let start = Sector(UInt64(block) * blockSectors.rawValue)
    return start..<start + blockSectors
  }

  /// Writes numbers to `disk`, one block after the other, until the task is cancelled.
  func write(
    _ model: DiskModel, count: Int = .max, onWrite: @Sendable () -> Void = {}
  ) async throws {
    var random: UInt64 = 1
    let handle = try await keeper.mapper.open("disk")
    let pages = try PagePool.lend(holding: Self.blockSectors)
    let buffer = pages.buffer.slice(.zero, Self.blockSectors)
    var left = count
    while left > 0, !Task.isCancelled {
      left -= 1
      random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      let block = Int(random >> 33) % Self.blocks
      let write = model.begin(block)
      for sector in 0..<Int(Self.blockSectors.rawValue) {
        buffer.store(write.number, at: sector * 512)
      }
      try await handle.device.write(Self.sectors(of: block), from: buffer, options: [])
      model.end(write)
      onWrite()
      // A turn for others.
      await Task.yield()
    }
    await handle.close()
  }
}

extension KeeperWorld {
  /// A world with devices over files of their names, exported.
  static func with(
    _ folder: TemporaryFolder, _ devices: String..., logger: Logger? = nil,
    syncFolder: @escaping @Sendable (FileDescriptor) throws(Errno) -> Void = StateFolder.sync
  ) async throws -> KeeperWorld {
    let world = try await KeeperWorld(folder.path, logger: logger, syncFolder: syncFolder)
    for name in devices {
      try folder.makeFile(name, byteCount: 1 << 20)
      _ = try await world.keeper.attach(
        name, file: folder.file(name), isReadOnly: false, isExported: true)
    }
    return world
  }

  func order(_ name: String, of device: String, size: UInt64? = nil) -> SnapshotOrder {
    SnapshotOrder(
      name: name, origin: device, cow: file("\(name).cow"), size: size, chunkSectors: 32)
  }

  /// The lines of a device's table; none: it isn't there.
  func table(_ name: String) async -> [String] {
    await (try? keeper.mapper.table(name, usesNames: true)) ?? []
  }

  /// Waits until something is so, which it is soon.
  func wait(_ what: String, _ isSo: () async -> Bool) async throws {
    for _ in 0..<1000 {
      if await isSo() { return }
      try await Task.sleep(for: .milliseconds(5))
    }
    Issue.record("in 5 s not: \(what)")
  }
}

/// What may be read from a device that is written and changed: per block the numbers that are
/// possible.
final class DiskModel: Sendable {
  struct Content: Sendable {
    var possible = [Set<UInt64>](repeating: [0], count: KeeperWorld.blocks)
    /// While the device goes back to another content: what has been written since it began.
    var written: [Set<UInt64>]?
    var past: [UInt64] = []
    /// How often that has begun or ended.
    var turns = 0
    var last: UInt64 = 0
  }

  private let content = Mutex(Content())

  var now: Content { content.withLock { $0 } }

  struct Write {
    let block: Int
    let number: UInt64
    fileprivate let turns: Int
  }

  func begin(_ block: Int) -> Write {
    content.withLock { content in
      content.last += 1
      content.possible[block].insert(content.last)
      content.written?[block].insert(content.last)
      return Write(block: block, number: content.last, turns: content.turns)
    }
  }

  func end(_ write: Write) {
    content.withLock { content in
      // Done before the device went back, it may be gone; begun after that, it is there.
      guard content.written == nil, content.turns == write.turns else { return }
      content.possible[write.block] = [write.number]
    }
  }

  /// From now on the device may go back to a past content at any moment.
  func beginGoingBack(to past: [UInt64]) {
    content.withLock { content in
      content.past = past
      content.turns += 1
      content.written = Array(repeating: [], count: KeeperWorld.blocks)
      for (block, number) in past.enumerated() { content.possible[block].insert(number) }
    }
  }

  /// It has.
  func hasGoneBack() {
    content.withLock { content in
      guard let written = content.written else { return }
      content.written = nil
      content.turns += 1
      for block in 0..<KeeperWorld.blocks {
        content.possible[block] = written[block].union([content.past[block]])
      }
    }
  }
}

/// Has what is done at each step of a change: the log tells, on the keeper's thread.
struct StepLog: LogHandler {
  let onStep: @Sendable (_ step: String) -> Void
  var logLevel = Logger.Level.debug
  var metadata = Logger.Metadata()
  var metadataProvider: Logger.MetadataProvider?

  static func logger(_ onStep: @escaping @Sendable (_ step: String) -> Void) -> Logger {
    Logger(label: "steps") { _ in StepLog(onStep: onStep) }
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    guard case .string(let step)? = event.metadata?["step"] else { return }
    onStep("\(step) \(event.metadata?["device"].map { "\($0)" } ?? "")")
  }
}
