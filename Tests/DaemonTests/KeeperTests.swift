import BlockIO
import DeviceMapper
import Foundation
import NBD
import Synchronization
import SystemPackage
import Testing

@testable import Daemon

/// The keeper's own promises: one change after the other, all or nothing, one instant.
struct KeeperTests {
  /// Tasks of others come and go between any two steps of one that doesn't prefer the loop.
  @Test func changesExcludeEachOther() async throws {
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder)
    let inside = Inside()
    await withDiscardingTaskGroup { group in
      for number in 0..<200 {
        group.addTask(
          executorPreference: number.isMultiple(of: 2) ? world.network.ioLoop : nil
        ) {
          try? await world.keeper.exclusively(inside)
        }
      }
    }
    #expect(inside.most == 1)
    try await world.end()
  }

  static let verbs: [(String, @Sendable (KeeperWorld) async throws -> Void)] = [
    (
      "create", { try await $0.keeper.create("c", uuid: nil, table: "0 8 zero", isReadOnly: false) }
    ),
    ("suspend", { try await $0.keeper.suspend("disk", isNoFlush: false) }),
    ("remove", { try await $0.keeper.remove("other", isForced: true, isDeferred: false) }),
    ("rename", { try await $0.keeper.rename("other", to: "new", isUUID: false) }),
    ("uuid", { try await $0.keeper.rename("other", to: "U-2", isUUID: true) }),
    ("wipe", { try await $0.keeper.wipe("other", isNoFlush: false) }),
    ("export", { _ = try await $0.keeper.export("disk", as: "again", isReadOnly: true) }),
    ("unexport", { try await $0.keeper.unexport("disk") }),
    (
      "take",
      { world in
        _ = try await world.keeper.takeSnapshots([world.order("new", of: "disk")], isExported: true)
      }
    ),
    ("drop", { _ = try await $0.keeper.dropSnapshot("snap", isForced: false) }),
    ("merge", { _ = try await $0.keeper.mergeSnapshot("snap", isForced: false) }),
    ("move", { try await $0.keeper.move("other", to: $0.file("moved")) }),
    ("add", { try await $0.keeper.addLeg($0.file("leg"), to: "other", region: nil) }),
  ]

  /// Nothing has changed, not even what is exported, and afterwards the same verb does it.
  @Test(arguments: verbs.indices)
  func aStateThatCantBeSavedChangesNothing(index: Int) async throws {
    let (name, verb) = Self.verbs[index]
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder, "disk", "other")
    _ = try await world.keeper.takeSnapshots([world.order("snap", of: "disk")], isExported: true)
    let before = try await world.picture
    let files = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()

    // What the next state would be written to can't be a file.
    let obstacle = folder.file("state/state.json.new")
    try FileManager.default.createDirectory(atPath: obstacle, withIntermediateDirectories: false)
    let failure = await #expect(throws: ControlFailure.self) { try await verb(world) }
    #expect(
      failure?.kind == .failed && failure?.message.contains("can't be saved") == true, "\(name)")
    #expect(try await world.picture == before, "\(name)")
    #expect(
      try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == files, "\(name)")

    try FileManager.default.removeItem(atPath: obstacle)
    try await verb(world)
    #expect(try await world.picture != before, "\(name)")
    try await world.end()
  }

  /// The state was replaced, and neither that nor its being put back could be made durable: a restart
  /// may find either, so files that the new one names stay, and nothing is changed before the disk
  /// is well again.
  @Test(arguments: verbs.indices)
  func aStateInDoubtIsSettledFirst(index: Int) async throws {
    let (name, verb) = Self.verbs[index]
    let folder = try TemporaryFolder()
    let isIll = Atomic<Bool>(false)
    let world = try await KeeperWorld.with(folder, "disk", "other") { _ throws(Errno) in
      if isIll.load(ordering: .relaxed) { throw .ioError }
    }
    _ = try await world.keeper.takeSnapshots([world.order("snap", of: "disk")], isExported: true)
    let before = try await world.picture
    let logs = try folder.logs
    isIll.store(true, ordering: .relaxed)
    for round in 1...2 {
      let failure = await #expect(throws: ControlFailure.self) { try await verb(world) }
      #expect(failure?.message.contains("neither be saved nor put back") == true, "\(name)")
      #expect(try await world.picture == before, "\(name)")
      #expect(try folder.logs.count == logs.count + (name == "add" ? 2 : 0), "\(name) \(round)")
    }
    isIll.store(false, ordering: .relaxed)
    // It may lie on a file that was made in vain.
    if !["take", "move", "add"].contains(name) {
      try await verb(world)
      #expect(try await world.picture != before, "\(name)")
    }
    try await world.end()
  }

  /// Two devices are written in turn, so that at any instant the first is at most one ahead.
  @Test(arguments: [false, true])
  func severalSnapshotsAreOfOneInstant(areOrigins: Bool) async throws {
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder, "disk", "other")
    if areOrigins {
      for name in ["disk", "other"] {
        _ = try await world.keeper.takeSnapshots(
          [world.order("old-\(name)", of: name)], isExported: false)
      }
    }
    let isOver = Atomic<Bool>(false)
    let writer = Task(executorPreference: world.network.ioLoop) {
      let first = try await world.keeper.mapper.open("disk")
      let second = try await world.keeper.mapper.open("other")
      let pages = try PagePool.lend(holding: 32)
      let buffer = pages.buffer.slice(.zero, 32)
      var number: UInt64 = 0
      while !isOver.load(ordering: .relaxed) {
        number += 1
        for sector in 0..<32 { buffer.store(number, at: sector * 512) }
        try await first.device.write(0..<32, from: buffer, options: [])
        try await second.device.write(0..<32, from: buffer, options: [])
      }
      await first.close()
      await second.close()
    }
    for round in 0..<8 {
      let names = ["a\(round)", "b\(round)"]
      _ = try await world.keeper.takeSnapshots(
        [world.order(names[0], of: "disk"), world.order(names[1], of: "other")], isExported: false)
      let (first, second) = (
        try await world.numbers(of: names[0])[0], try await world.numbers(of: names[1])[0]
      )
      #expect(first == second || first == second + 1, "\(first) and \(second)")
    }
    isOver.store(true, ordering: .relaxed)
    try await writer.value
    try await world.end()
  }
}

/// How many are at work at once.
private final class Inside: Sendable {
  private let count = Mutex((now: 0, most: 0))

  var most: Int { count.withLock { $0.most } }

  func enter() {
    count.withLock {
      $0.now += 1
      $0.most = max($0.most, $0.now)
    }
  }

  func leave() { count.withLock { $0.now -= 1 } }
}

extension DeviceKeeper {
  /// Enters, and leaves when others have had a turn.
  fileprivate func exclusively(_ inside: Inside) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      inside.enter()
      await Task.yield()
      inside.leave()
    }
  }
}

extension TemporaryFolder {
  /// The files of mirrors in the folder of the state.
  fileprivate var logs: [String] {
    get throws {
      try FileManager.default.contentsOfDirectory(atPath: file("state"))
        .filter { $0.hasSuffix(".log") || $0.hasSuffix(".sidecar") }
    }
  }
}

extension KeeperWorld {
  /// Everything that people see of devices and exports.
  fileprivate var picture: [String] {
    get async throws {
      var lines = try await keeper.table(nil, isInactive: false).lines
      for device in try await keeper.info(nil) {
        lines.append(
          "\(device.name) \(device.isSuspended) \(device.uuid ?? "") \(device.hasInactive)")
      }
      for export in await keeper.exportSummaries() {
        lines.append("\(export.export) \(export.device) \(export.problem ?? "")")
      }
      lines.append("\(await keeper.state.operations)")
      return lines
    }
  }
}

extension ControlAnswer {
  fileprivate var lines: [String] {
    if case .lines(let devices) = self { devices.map { "\($0.name): \($0.lines)" } } else { [] }
  }
}
