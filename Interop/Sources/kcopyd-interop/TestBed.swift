import BlockIO
import Snapshots

/// The devices of a scenario, beside their model: what is written to one is written to the other.
final class TestBed {
  let folder: Folder
  private(set) var model: Model
  private var session: Session?

  /// What is open at a time.
  private struct Session {
    let loop: IOLoop
    let origin: Origin
    var snapshots: [SnapshotDevice] = []
  }

  /// A new origin of that size.
  init(in folder: Folder, sectorCount: Sector) throws {
    self.folder = folder
    model = Model(sectorCount: sectorCount)
    try folder.write(model.origin, to: "origin.img")
  }

  // MARK: Opening and closing

  private func file(_ name: String, on loop: IOLoop) throws(IOFailure) -> FileDevice {
    try FileDevice.open(
      folder.path(name), .init(isWritable: true, direct: .off), on: loop)
  }

  /// The session that is open; a new one if none is.
  private func opened() throws -> Session {
    if let session { return session }
    let loop = try IOLoop.start()
    let new = Session(loop: loop, origin: try Origin(file("origin.img", on: loop), on: loop))
    session = new
    return new
  }

  /// Takes a snapshot with a COW device of that size, which held something else before.
  func takeSnapshot(
    chunk: Sector, cow sectorCount: Sector, _ change: (inout SnapshotParameters) -> Void = { _ in }
  ) async throws {
    let name = Self.cowName(model.snapshots.count)
    let blank = [UInt8](repeating: 0, count: Int(Sector.byteCount))
    try folder.write(blank + Pattern.sectors("cow junk", 1..<sectorCount), to: name)
    var parameters = SnapshotParameters(chunkSize: ChunkSize(chunk))
    change(&parameters)
    try await addSnapshot(name, parameters, mustExist: false)
    model.takeSnapshot(chunk: chunk, store: parameters.store)
  }

  private func addSnapshot(
    _ name: String, _ parameters: SnapshotParameters, mustExist: Bool
  ) async throws {
    var session = try opened()
    let cow = try file(name, on: session.loop)
    let snapshot = try await session.origin.addSnapshot(
      cow: cow, parameters: parameters, mustExist: mustExist)
    try await snapshot.resume()
    session.snapshots.append(snapshot)
    self.session = session
  }

  /// Closes all devices.
  func close() async throws {
    guard let session else { return }
    for snapshot in session.snapshots { await snapshot.remove() }
    try await session.origin.underlying.flush()
    session.loop.stop()
    self.session = nil
  }

  /// Opens the snapshots again that there are.
  func reopen() async throws {
    try await close()
    for (index, snapshot) in model.snapshots.enumerated() {
      try await addSnapshot(
        Self.cowName(index), SnapshotParameters(store: snapshot.store), mustExist: true)
    }
  }

  static func cowName(_ index: Int) -> String { "cow\(index == 0 ? "" : "\(index + 1)").img" }

  // MARK: Writing

  /// Writes to the origin in one request.
  func writeOrigin(_ label: String, _ first: Sector, _ count: Sector) async throws {
    let sectors = first..<first + count
    let bytes = Pattern.sectors(label, sectors)
    try await Self.put(bytes, at: sectors, on: opened().origin.device)
    model.writeOrigin(bytes, at: sectors)
  }

  /// Writes to a snapshot in one request.
  func writeSnapshot(
    _ label: String, _ first: Sector, _ count: Sector, snapshot index: Int = 0
  ) async throws {
    let sectors = first..<first + count
    let bytes = Pattern.sectors(label, sectors)
    try await Self.put(bytes, at: sectors, on: opened().snapshots[index])
    model.write(bytes, at: sectors, toSnapshot: index)
  }

  /// Writes to the origin where there is no room for what was there.
  func writeOriginLosingSnapshot(_ label: String, _ first: Sector, _ count: Sector) async throws {
    model.lose(snapshot: 0)
    try await writeOrigin(label, first, count)
    let condition = await (try opened()).snapshots[0].status.condition
    guard case .invalid = condition else { throw Unexpected("the snapshot should be lost") }
  }

  /// Writes to the snapshot where there is no room for it: nothing changes.
  func writeSnapshotInVain(_ label: String, _ first: Sector, _ count: Sector) async throws {
    let sectors = first..<first + count
    let snapshot = try opened().snapshots[0]
    do throws(IOFailure) {
      try await Self.put(Pattern.sectors(label, sectors), at: sectors, on: snapshot)
    } catch {
      return
    }
    throw Unexpected("a write that there is no room for should fail")
  }

  private static func put(
    _ bytes: [UInt8], at sectors: Range<Sector>, on device: any BlockDevice
  ) async throws(IOFailure) {
    let pages = try PagePool.lend(holding: sectors.length)
    let buffer = pages.buffer.slice(.zero, sectors.length)
    buffer.load(from: bytes)
    try await device.write(sectors, from: buffer)
  }

  // MARK: Merging

  /// A write to the device while it is merged.
  struct Write: Sendable {
    let label: String
    let first: Sector
    let count: Sector

    var sectors: Range<Sector> { first..<first + count }
    var bytes: [UInt8] { Pattern.sectors(label, sectors) }
  }

  /// Merges the only snapshot to the end.
  func mergeAll() async throws {
    try await merge(holdingStep: nil) { merge, _ in await merge.waitUntilEnded() }
    model.merge(downTo: 0)
  }

  /// Merges the only snapshot and stops after a step.
  ///
  /// - Parameters:
  ///   - step: the last step, counted from 1.
  ///   - remaining: how many exceptions are left then.
  ///   - meanwhile: written to the device while it is in that step.
  func merge(
    stoppingAfterStep step: Int, remaining: Int, meanwhile: [Write] = []
  ) async throws {
    try await merge(holdingStep: step) { merge, origin in
      await origin.waitUntilHeld()
      try await withThrowingTaskGroup { group in
        // Some of these wait for the end of the step.
        for write in meanwhile {
          group.addTask { try await Self.put(write.bytes, at: write.sectors, on: merge) }
        }
        group.addTask { await merge.suspend() }
        // Time for all of them to get to where they wait. Were it too short, another step would
        // be made, which is noticed below.
        try await Task.sleep(for: .milliseconds(300))
        await origin.letGo()
        try await group.waitForAll()
      }
      let left = await merge.status.exceptions
      guard left == UInt64(remaining) else {
        throw Unexpected("the merge should have stopped at \(remaining) exceptions, not \(left)")
      }
    }
    model.merge(downTo: remaining)
    for write in meanwhile { model.writeMerging(write.bytes, at: write.sectors) }
  }

  private func merge(
    holdingStep step: Int?, _ body: (MergeDevice, HeldDevice) async throws -> Void
  ) async throws {
    try await close()
    let loop = try IOLoop.start()
    defer { loop.stop() }
    // A merge flushes its origin once in each step, after the chunks have been copied and before
    // their exceptions are cleared: held there, it stands in the middle of that step.
    let held = HeldDevice(try file("origin.img", on: loop), holding: .flush)
    if let step { await held.hold(from: step) }
    let cow = try file(Self.cowName(0), on: loop)
    let merge = try await Origin(held, on: loop).addMerge(cow: cow)
    try await merge.resume()
    try await body(merge, held)
    try await merge.flush()
    await merge.remove()
  }
}

/// The library did something else than the scenario wants: its images would show nothing.
struct Unexpected: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}
