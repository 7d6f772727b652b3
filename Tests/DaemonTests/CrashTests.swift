import BlockIO
import DeviceMapper
import Foundation
import Logging
import NBD
import Synchronization
import Testing

@testable import Daemon

/// The daemon killed after every step of a change, and between its steps, while its device is
/// written: what was there at that moment is kept, a daemon started on it, and looked at.
struct CrashTests {
  /// A change of the stack under `disk`.
  struct Change: Sendable, CustomTestStringConvertible {
    let testDescription: String
    /// The snapshot that `disk` goes back to.
    var merged: String?
    /// What has been done before.
    let prepare: @Sendable (KeeperWorld) async throws -> Void
    let verb: @Sendable (KeeperWorld) async throws -> Void
    /// Whether a state is the one it leads to.
    let isDone: @Sendable (DaemonState) -> Bool
  }

  /// What a kill at one moment leaves.
  struct Image: Sendable {
    let step: String
    let folder: String
    let content: DiskModel.Content
  }

  static let changes: [Change] = [
    Change(
      testDescription: "take the first snapshot", prepare: { _ in },
      verb: { try await $0.take("new") },
      isDone: {
        $0.targets == ["disk": "snapshot-origin", "disk-real": "linear", "new": "snapshot"]
      }
    ),
    Change(
      testDescription: "take another", prepare: { try await $0.take("old") },
      verb: { try await $0.take("new") },
      isDone: { $0[device: "new"] != nil && $0[device: "old"] != nil }),
    Change(
      testDescription: "drop one of two", prepare: { try await $0.take("old", "gone") },
      verb: { world in
        _ = try await world.keeper.dropSnapshot("gone", isForced: false)
      },
      isDone: { $0[device: "gone"] == nil && $0[device: "old"] != nil }),
    Change(
      testDescription: "drop the last", prepare: { try await $0.take("gone") },
      verb: { world in
        _ = try await world.keeper.dropSnapshot("gone", isForced: false)
      },
      isDone: { $0.targets == ["disk": "linear"] }),
    Change(
      testDescription: "merge one of two", merged: "merged",
      prepare: { try await $0.take("old", "merged") },
      verb: { try await $0.merge("merged") },
      isDone: {
        $0.targets == ["disk": "snapshot-origin", "disk-real": "linear", "old": "snapshot"]
      }
    ),
    Change(
      testDescription: "merge the last", merged: "merged", prepare: { try await $0.take("merged") },
      verb: { try await $0.merge("merged") }, isDone: { $0.targets == ["disk": "linear"] }),
    Change(
      testDescription: "move", prepare: { try await $0.take("old") },
      verb: { world in
        try await world.keeper.move("disk", to: world.file("moved"))
        try await world.follow()
      },
      isDone: {
        $0.operations.isEmpty && $0[device: "disk-real"]?.table?.hasSuffix("moved 0") == true
      }
    ),
    Change(
      testDescription: "add a leg", prepare: { _ in }, verb: { try await $0.addLeg("leg") },
      isDone: { $0.targets == ["disk": "mirror"] && $0.operations.isEmpty }),
    Change(
      testDescription: "add a third leg", prepare: { try await $0.addLeg("second") },
      verb: { try await $0.addLeg("leg") },
      isDone: { $0.targets == ["disk": "mirror"] && $0.operations.isEmpty && $0.hasLeg }),
    Change(
      testDescription: "split a leg off", prepare: { try await $0.addLeg("leg") },
      verb: { world in
        // After a kill what was written last is brought into sync first.
        try await world.waitForSync()
        _ = try await world.keeper.removeLeg(
          world.file("leg"), from: "disk", isSplit: true, as: "copy")
      },
      isDone: { $0.targets == ["disk": "linear", "copy": "linear"] }),
    Change(
      testDescription: "remove a leg", prepare: { try await $0.addLeg("leg") },
      verb: { world in
        _ = try await world.keeper.removeLeg(
          world.file("leg"), from: "disk", isSplit: false, as: nil)
      },
      isDone: { $0.targets == ["disk": "linear"] }),
  ]

  @Test(arguments: changes) func aKillAtAnyStepLosesNothing(change: Change) async throws {
    let folder = try TemporaryFolder()
    let (images, past) = try await images(of: change, in: folder)
    let steps = images.map(\.step)
    #expect(steps.contains { $0.hasPrefix("suspended") } && steps.contains("saved "), "\(steps)")
    for image in images {
      try folder.restore(image.folder)
      let found = try await problems(of: change, image, past, in: folder)
      if !found.isEmpty { Issue.record("killed at '\(image.step)': \(found)") }
    }
  }

  /// Who asks for the end of a merge while its last step is under way – the state is saved, tables
  /// aren't all there – is told of it.
  @Test func theLastStepIsWaitedFor() async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile(
      "disk", byteCount: UInt64(KeeperWorld.blocks) * KeeperWorld.blockSectors.bytes)
    let asking = Mutex<(keeper: DeviceKeeper, loop: IOLoop, saved: Int)?>(nil)
    let answers = Mutex<[Task<String, any Error>]>([])
    let world = try await KeeperWorld(
      folder.path,
      logger: StepLog.logger { step in
        guard step.hasPrefix("saved"),
          let (keeper, loop, saved) = asking.withLock({ asking in
            asking?.saved += 1
            return asking
          }), saved == 2
        else { return }
        let task = Task(executorPreference: loop) {
          try await keeper.follow("disk") { _, _, _ in }
        }
        answers.withLock { $0.append(task) }
      })
    _ = try await world.keeper.attach(
      "disk", file: world.file("disk"), isReadOnly: false, isExported: true)
    try await world.take("merged")
    asking.withLock { $0 = (world.keeper, world.network.ioLoop, 0) }
    try await world.merge("merged")
    let answer = try #require(answers.withLock { $0.first })
    #expect(try await answer.value.hasPrefix("merged 'merged' into 'disk'"))
    try await world.end()
  }

  /// A file whose making was cut short by a kill is empty: the verb given again makes it.
  @Test func anEmptyFileIsStillToBeMade() async throws {
    let folder = try TemporaryFolder()
    let world = try await KeeperWorld.with(folder, "disk")
    for name in ["new.cow", "moved", "leg"] { try folder.makeFile(name, byteCount: 0) }
    try await world.take("new")
    try await world.keeper.move("disk", to: world.file("moved"))
    try await world.follow()
    try await world.addLeg("leg")
    let state = await world.keeper.state
    #expect(state[device: "new"] != nil && state.hasLeg)
    try await world.end()
  }

  /// The check sees a block that isn't what was promised.
  @Test func theCheckCanFail() async throws {
    let folder = try TemporaryFolder()
    let change = Self.changes[1]
    let (images, past) = try await images(of: change, in: folder)
    let image = try #require(images.last)
    try folder.restore(image.folder)
    let disk = try FileHandle(forUpdating: URL(fileURLWithPath: folder.file("disk")))
    try disk.seek(toOffset: 5 * KeeperWorld.blockSectors.bytes)
    try disk.write(contentsOf: Data(repeating: 0x77, count: Int(KeeperWorld.blockSectors.bytes)))
    try disk.close()
    let found = try await problems(of: change, image, past, in: folder)
    #expect(found.contains { $0.contains("block 5 of 'disk'") }, "\(found)")
  }

  /// Does a change while the device is written, and keeps what a kill would leave at each moment.
  ///
  /// - Returns: also what the snapshots held before.
  private func images(
    of change: Change, in folder: TemporaryFolder
  ) async throws -> ([Image], [String: [UInt64]]) {
    try folder.makeFile(
      "disk", byteCount: UInt64(KeeperWorld.blocks) * KeeperWorld.blockSectors.bytes)
    let model = DiskModel()
    let images = Mutex<[Image]>([])
    let isArmed = Atomic<Bool>(false)
    let keep = { @Sendable (step: String) in
      guard isArmed.load(ordering: .relaxed) else { return }
      images.withLock { images in
        // On the loop's thread: nothing that waits for something before can have happened.
        guard images.count < 40 else { return }
        // Of those within a step some are enough, however long it takes.
        guard step != "a write" || images.suffix(4).count(where: { $0.step == step }) < 4 else {
          return
        }
        guard let copy = try? folder.copy(images.count) else { return }
        images.append(Image(step: step, folder: copy, content: model.now))
      }
    }
    let world = try await KeeperWorld(folder.path, logger: StepLog.logger(keep))
    _ = try await world.keeper.attach(
      "disk", file: world.file("disk"), isReadOnly: false, isExported: true)
    try await world.write(model, count: 40)
    try await change.prepare(world)
    var past: [String: [UInt64]] = [:]
    for name in ["old", "gone", "merged"] where await world.keeper.state[device: name] != nil {
      past[name] = try await world.numbers(of: name)
    }
    try await world.write(model, count: 40)
    let writes = Atomic<Int>(0)
    let writer = Task(executorPreference: world.network.ioLoop) {
      try await world.write(model) {
        if writes.wrappingAdd(1, ordering: .relaxed).newValue.isMultiple(of: 4) { keep("a write") }
      }
    }
    if let name = change.merged { model.beginGoingBack(to: past[name] ?? []) }
    isArmed.store(true, ordering: .relaxed)
    try await change.verb(world)
    if change.merged != nil { model.hasGoneBack() }
    await withTaskExecutorPreference(world.network.ioLoop) { keep("the end") }
    isArmed.store(false, ordering: .relaxed)
    writer.cancel()
    try await writer.value
    try await world.end()
    return (images.withLock { $0 }, past)
  }

  /// What is wrong when the daemon is started on an image, and the verb given once more.
  private func problems(
    of change: Change, _ image: Image, _ past: [String: [UInt64]], in folder: TemporaryFolder
  ) async throws -> [String] {
    let world = try await KeeperWorld(folder.path)
    var found = await world.keeper.problems.map { "'\($0.key)' isn't there: \($0.value)" }
    let possible = image.content.possible
    let disk = try await world.numbers(of: "disk", possible: possible)
    for (block, number) in disk.enumerated() where !image.content.possible[block].contains(number) {
      found.append("block \(block) of 'disk' is \(number) of \(image.content.possible[block])")
    }
    for (name, numbers) in past where await world.keeper.state[device: name] != nil {
      if try await world.numbers(of: name) != numbers { found.append("'\(name)' has changed") }
    }
    do {
      try await change.verb(world)
    } catch {
      // It was done already.
      if (error as? ControlFailure)?.kind != .refused { found.append("again: \(error)") }
    }
    // Of what went on by itself the verb may have found nothing any more.
    try? await world.follow()
    let state = await world.keeper.state
    if !change.isDone(state) { found.append("again, and it isn't done: \(state)") }
    let after = try await world.numbers(of: "disk", possible: possible)
    for (block, number) in after.enumerated() where number != disk[block] {
      let expected = change.merged.flatMap { past[$0]?[block] }
      if number != expected { found.append("again, and block \(block) is \(number)") }
    }
    for name in ["new", "copy"] where state[device: name] != nil {
      // Of a moment since the verb began, and nobody has written since the restart.
      let numbers = try await world.numbers(of: name, possible: possible)
      let isSnapshot = state.targets[name] == "snapshot"
      for (block, number) in numbers.enumerated() where isSnapshot && number > image.content.last {
        found.append("block \(block) of '\(name)' is \(number)")
      }
    }
    try await world.end()
    return found
  }
}

extension DaemonState {
  fileprivate var hasLeg: Bool { devices.contains { $0.table?.contains("/leg ") == true } }

  /// The target of each device.
  fileprivate var targets: [String: String] {
    devices.reduce(into: [:]) { targets, record in
      targets[record.name] = record.table?.split(separator: " ").dropFirst(2).first.map(String.init)
    }
  }
}

extension KeeperWorld {
  fileprivate func take(_ names: String...) async throws(ControlFailure) {
    let orders = names.map {
      SnapshotOrder(name: $0, origin: "disk", cow: file("\($0).cow"), size: nil, chunkSectors: 32)
    }
    _ = try await keeper.takeSnapshots(orders, isExported: true)
  }

  fileprivate func merge(_ name: String) async throws(ControlFailure) {
    _ = try await keeper.mergeSnapshot(name, isForced: false)
    try await follow()
  }

  fileprivate func addLeg(_ leg: String) async throws(ControlFailure) {
    try await keeper.addLeg(file(leg), to: "disk", region: nil)
    try await follow()
  }

  /// Waits until the legs of `disk`, if it has any, hold the same.
  fileprivate func waitForSync() async throws {
    for _ in 0..<2000 {
      let figures = try await keeper.figures(of: "disk")
      guard case .mirror(let mirror, legs: _)? = figures, !mirror.isInSync else { return }
      try await Task.sleep(for: .milliseconds(5))
    }
  }

  /// Waits for the end of what goes on with `disk`.
  fileprivate func follow() async throws(ControlFailure) {
    _ = try await keeper.follow("disk") { _, _, _ in }
  }
}

/// A folder whose content is copied and put back.
final class TemporaryFolder: Sendable {
  private let base = FileManager.default.temporaryDirectory
    .appendingPathComponent("kcopyd-daemon-\(UUID().uuidString.prefix(8))").path

  var path: String { "\(base)/work" }

  init() throws {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: base) }

  func file(_ name: String) -> String { "\(path)/\(name)" }

  func makeFile(_ name: String, byteCount: UInt64) throws {
    try Data(count: Int(byteCount)).write(to: URL(fileURLWithPath: file(name)))
  }

  func copy(_ number: Int) throws -> String {
    let copy = "\(base)/\(number)"
    try FileManager.default.copyItem(atPath: path, toPath: copy)
    return copy
  }

  func restore(_ copy: String) throws {
    try FileManager.default.removeItem(atPath: path)
    try FileManager.default.copyItem(atPath: copy, toPath: path)
  }
}
