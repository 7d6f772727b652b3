import BlockIO
import DeviceMapper
import Foundation
import Logging
import Synchronization
import Testing

@testable import Daemon

/// What an administrator meets on a bad day: files that have vanished, disks that are full, snapshots
/// that are lost – and that there is a way out of each.
struct TroubleTests {
  /// What was logged as a warning or worse. It hears of the steps of changes, too.
  private struct Complaints: LogHandler {
    let seen: Said
    var logLevel = Logger.Level.debug
    var metadata = Logger.Metadata()
    var metadataProvider: Logger.MetadataProvider?

    final class Said: Sendable {
      private let lines = Mutex<[String]>([])
      private let onSaving: @Sendable () -> Void

      init(onSaving: @escaping @Sendable () -> Void = {}) { self.onSaving = onSaving }

      var all: [String] { lines.withLock { $0 } }

      func note(_ event: LogEvent) {
        if event.level >= .warning {
          lines.withLock { $0.append("\(event.message) \(event.metadata ?? [:])") }
        } else if event.metadata?["step"] == "saved" {
          onSaving()
        }
      }

      var logger: Logger { Logger(label: "complaints") { _ in Complaints(seen: self) } }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }

    func log(event: LogEvent) { seen.note(event) }
  }

  /// Writes all of a device.
  private func overwrite(_ name: String, in world: KeeperWorld) async throws {
    let handle = try await world.keeper.mapper.open(name)
    let pages = try PagePool.lend(holding: 2048)
    try await handle.device.write(0..<2048, from: pages.buffer.slice(0, 2048), options: [])
    await handle.close()
  }

  /// A daemon with the device `disk` from its start to its end.
  private func inOneLife(
    _ folder: TemporaryFolder, _ body: (KeeperWorld) async throws -> Void
  ) async throws {
    let world = try await KeeperWorld.with(folder, "disk")
    try await body(world)
    try await world.end()
  }

  @Test func whatIsLostIsSaidAndIsntMerged() async throws {
    let folder = try TemporaryFolder()
    let said = Complaints.Said()
    let world = try await KeeperWorld.with(folder, "disk", logger: said.logger)
    let small = world.order("snap", of: "disk", size: 5 * 16384)
    _ = try await world.keeper.takeSnapshots([small], isExported: false)
    try await overwrite("disk", in: world)
    try await world.wait("the loss is logged") {
      said.all.contains { $0.contains("snap") && $0.contains("no room for another chunk") }
    }
    let before = await world.keeper.state
    let failure = await #expect(throws: ControlFailure.self) {
      _ = try await world.keeper.mergeSnapshot("snap", isForced: false)
    }
    #expect(failure?.kind == .refused)
    #expect(failure?.message.contains("invalid: no room") == true, "\(failure?.message ?? "")")
    #expect(await world.keeper.state == before)
    #expect(await world.table("disk") == ["0 2048 snapshot-origin /dev/mapper/disk-real"])
    _ = try await world.keeper.dropSnapshot("snap", isForced: false)
    try await world.end()
  }

  /// The COW file of a merge is gone after a restart.
  @Test func aMergeThatCantGoOnIsGivenUp() async throws {
    let folder = try TemporaryFolder()
    try await inOneLife(folder) { world in
      _ = try await world.keeper.takeSnapshots(
        [world.order("snap", of: "disk")], isExported: false)
    }
    try folder.change { try $0.beginMerge("snap") }
    try FileManager.default.removeItem(atPath: folder.file("snap.cow"))
    let world = try await KeeperWorld(folder.path)
    let keeper = world.keeper
    #expect(await keeper.problems["disk"]?.contains("snap.cow") == true)
    let refusal = await #expect(throws: ControlFailure.self) {
      _ = try await keeper.dropSnapshot("snap", isForced: false)
    }
    #expect(refusal?.message.contains("--force gives it up") == true, "\(refusal?.message ?? "")")
    let answer = try await keeper.dropSnapshot("snap", isForced: true)
    #expect(answer.hasPrefix("gave up merging 'snap' into 'disk'"))
    #expect(await world.table("disk") == ["0 2048 linear \(folder.file("disk")) 0"])
    #expect(await keeper.isWell)
    #expect(await keeper.exports.isServed("disk"))
    try await world.end()
  }

  /// The new place of a move is gone after a restart, or a leg of a mirror.
  @Test(arguments: [false, true]) func aDeviceComesBackWithoutALostPlace(
    isMove: Bool
  ) async throws {
    let folder = try TemporaryFolder()
    try await inOneLife(folder) { world in
      if isMove { return }
      try await world.keeper.addLeg(folder.file("goal"), to: "disk", region: nil)
      _ = try await world.keeper.follow("disk") { _, _, _ in }
    }
    if isMove {
      try folder.change { try $0.beginMove("disk", to: folder.file("goal")) }
    } else {
      try FileManager.default.removeItem(atPath: folder.file("goal"))
    }
    let world = try await KeeperWorld(folder.path)
    let keeper = world.keeper
    #expect(await keeper.problems["disk"]?.contains("goal") == true)
    if isMove {
      _ = try await keeper.abortMove("disk")
    } else {
      _ = try await keeper.removeLeg(
        folder.file("goal"), from: "disk", isSplit: false, as: nil)
    }
    #expect(await world.table("disk") == ["0 2048 linear \(folder.file("disk")) 0"])
    #expect(await keeper.isWell)
    #expect(await keeper.exports.isServed("disk"))
    let files = try FileManager.default.contentsOfDirectory(atPath: folder.file("state")).sorted()
    #expect(files == ["lock", "state.json"])
    try await world.end()
  }

  /// The disk of the state is full when a move is over: that is said once, and the end comes by itself
  /// when there is room.
  @Test func aLastStepIsTriedAgain() async throws {
    let folder = try TemporaryFolder()
    let obstacle = folder.file("state/state.json.new")
    let isArmed = Atomic<Bool>(false)
    let said = Complaints.Said {
      // Once the move has begun nothing can be saved any more.
      guard isArmed.exchange(false, ordering: .relaxed) else { return }
      try? FileManager.default.createDirectory(
        atPath: obstacle, withIntermediateDirectories: false)
    }
    let world = try await KeeperWorld.with(folder, "disk", logger: said.logger)
    let keeper = world.keeper
    isArmed.store(true, ordering: .relaxed)
    try await keeper.move("disk", to: folder.file("goal"))
    let failure = await #expect(throws: ControlFailure.self) {
      _ = try await keeper.follow("disk") { _, _, _ in }
    }
    #expect(failure?.message.contains("can't be saved") == true, "\(failure?.message ?? "")")
    #expect(failure?.message.hasSuffix("it is tried again by itself") == true)
    let info = try await keeper.info("disk").first
    #expect(info?.operation?.contains("tried again") == true, "\(info?.operation ?? "")")
    try await Task.sleep(for: .milliseconds(200))
    #expect(said.all.count { $0.contains("can't be taken") } == 1, "\(said.all)")
    try FileManager.default.removeItem(atPath: obstacle)
    try await world.wait("the move ends") { await keeper.state.operations.isEmpty }
    try await world.wait("the table is the new one") {
      await world.table("disk") == ["0 2048 linear \(folder.file("goal")) 0"]
    }
    #expect(try await keeper.follow("disk") { _, _, _ in }.hasPrefix("moved 'disk'"))
    try await world.end()
  }

  /// Whoever looks after the first move mustn't take the second one for it.
  @Test func aMoveAfterOneThatWasStoppedIsItsOwn() async throws {
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder, "disk")
    let keeper = world.keeper
    for round in 0..<5 {
      let (first, second) = (folder.file("a\(round)"), folder.file("b\(round)"))
      try await keeper.move("disk", to: first)
      do { _ = try await keeper.abortMove("disk") } catch { continue }
      try await keeper.move("disk", to: second)
      let answer = try await keeper.follow("disk") { _, _, _ in }
      #expect(answer.hasPrefix("moved 'disk' to '\(second)'"), "\(answer)")
      #expect(await world.table("disk") == ["0 2048 linear \(second) 0"])
    }
    try await world.end()
  }

  /// A resume that can't be saved, or that a target refuses: the device goes on with its old table.
  @Test(arguments: [false, true]) func aRefusedResumeChangesNothing(
    isSaving: Bool
  ) async throws {
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder, "disk")
    let keeper = world.keeper
    let live = await world.table("disk")
    let state = await keeper.state
    for name in ["leg", "log"] { try folder.makeFile(name, byteCount: 2 << 20) }
    // A log of two regions, none in sync: which leg is right isn't known.
    try folder.put([0x72, 0x52, 0x69, 0x4d, 2, 0, 0, 0, 2], into: "log")
    let mirror =
      "0 2048 mirror disk 2 \(folder.file("log")) 1024 2 \(folder.file("disk")) 0 "
      + "\(folder.file("leg")) 0 0 1 distrust_first_leg"
    try await keeper.load("disk", table: isSaving ? "0 2048 zero" : mirror)
    let obstacle = folder.file("state/state.json.new")
    if isSaving {
      try FileManager.default.createDirectory(
        atPath: obstacle, withIntermediateDirectories: false)
    }
    _ = await #expect(throws: ControlFailure.self) {
      try await keeper.resume("disk", isNoFlush: false)
    }
    #expect(await world.table("disk") == live)
    #expect(await keeper.state == state)
    let info = try await keeper.mapper.info("disk")
    #expect(!info.isSuspended && info.hasInactiveTable == isSaving)
    if isSaving { try FileManager.default.removeItem(atPath: obstacle) }
    try await keeper.resume("disk", isNoFlush: false)
    #expect(await world.table("disk") == (isSaving ? ["0 2048 zero "] : live))
    let saved = await keeper.state[device: "disk"]?.table
    #expect(saved == (isSaving ? "0 2048 zero" : state[device: "disk"]?.table))
    try await world.end()
  }

  @Test func aDeferredRemovalIsDoneWhenNothingUsesTheDevice() async throws {
    let folder = try TemporaryFolder()
    try await inOneLife(folder) { world in
      let keeper = world.keeper
      try await keeper.create("top", uuid: nil, table: "0 8 linear disk 0", isReadOnly: false)
      try await keeper.remove("disk", isForced: false, isDeferred: true)
      try await keeper.remove("top", isForced: false, isDeferred: false)
      // It is still exported; also after a restart.
      #expect(try await keeper.info("disk").first?.isRemovalDeferred == true)
    }
    let world = try await KeeperWorld(folder.path)
    let keeper = world.keeper
    #expect(try await keeper.info("disk").first?.isRemovalDeferred == true)
    _ = try await keeper.message("disk", sector: 0, text: "@cancel_deferred_remove")
    #expect(try await keeper.info("disk").first?.isRemovalDeferred == false)
    try await keeper.remove("disk", isForced: false, isDeferred: true)
    try await keeper.unexport("disk")
    #expect(await keeper.state == DaemonState())
    #expect(await keeper.mapper.list().isEmpty)
    // Nothing uses this one: it goes at once.
    try await keeper.create("plain", uuid: nil, table: "0 8 zero", isReadOnly: false)
    try await keeper.remove("plain", isForced: false, isDeferred: true)
    #expect(await keeper.state == DaemonState())
    try await world.end()
  }

  /// Of a device that can't be written there are snapshots, too.
  @Test func aSnapshotOfAReadOnlyDevice() async throws {
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder)
    try folder.makeFile("disk", byteCount: 1 << 20)
    _ = try await world.keeper.attach(
      "disk", file: folder.file("disk"), isReadOnly: true, isExported: false)
    _ = try await world.keeper.takeSnapshots(
      [world.order("snap", of: "disk")], isExported: false)
    try await overwrite("snap", in: world)
    await #expect(throws: IOFailure.self) { try await overwrite("disk", in: world) }
    _ = try await world.keeper.dropSnapshot("snap", isForced: false)
    #expect(await world.table("disk") == ["0 2048 linear \(folder.file("disk")) 0"])
    try await world.end()
  }

  /// Where nobody has written a table a refusal says no word of it.
  @Test func aStepsRefusalHasNoPlaceInATable() async throws {
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder, "disk")
    try folder.makeFile("small", byteCount: 4096)
    let failure = await #expect(throws: ControlFailure.self) {
      try await world.keeper.addLeg(folder.file("small"), to: "disk", region: nil)
    }
    #expect(
      failure?.message
        == "'disk': '\(folder.file("small"))' has 8 sectors; 2048 from 0 on are wanted")
    _ = try await world.keeper.takeSnapshots([world.order("s", of: "disk")], isExported: false)
    var again = world.order("t", of: "disk")
    again.cow = folder.file("s.cow")
    let used = await #expect(throws: ControlFailure.self) {
      _ = try await world.keeper.takeSnapshots([again], isExported: false)
    }
    #expect(used?.message.contains("is used by the table of 's'") == true)
    try folder.makeFile("odd", byteCount: 1000)
    let answer = try await world.keeper.attach(
      "odd", file: folder.file("odd"), isReadOnly: false, isExported: false)
    #expect(answer.contains("without its last 488 bytes"))
    try await world.end()
  }
}

extension DeviceKeeper {
  /// All devices are there, and nothing goes on.
  fileprivate var isWell: Bool { problems.isEmpty && state.operations.isEmpty }
}

extension TemporaryFolder {
  fileprivate func put(_ bytes: [UInt8], into name: String) throws {
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: self.file(name)))
    try file.write(contentsOf: Data(bytes))
    try file.close()
  }

  /// Changes the state of a daemon that doesn't run.
  fileprivate func change(_ body: (inout DaemonState) throws -> Void) throws {
    let states = try StateFolder(file("state"))
    let before = try #require(try states.load())
    var state = before
    try body(&state)
    try states.save(state, replacing: before)
  }
}
