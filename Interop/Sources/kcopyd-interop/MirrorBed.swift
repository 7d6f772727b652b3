import BlockIO
import Mirrors

/// The devices of a mirror, beside their model: what is written to one is written to the other.
final class MirrorBed {
  let folder: Folder
  private(set) var model: MirrorModel
  private var session: Session?

  /// What is open at a time.
  private struct Session {
    let loop: IOLoop
    let legs: [HeldDevice]
    let mirror: MirrorDevice
  }

  /// New legs that hold different things, and no log.
  init(in folder: Folder, sectorCount: Sector, region: Sector, offsets: [Sector]) throws {
    self.folder = folder
    let legs = offsets.indices.map { Pattern.sectors("leg\($0) v1", .zero..<sectorCount) }
    model = MirrorModel(legs: legs, offsets: offsets, region: region)
    for (index, leg) in legs.enumerated() { try folder.write(leg, to: Self.legName(index)) }
  }

  private static func legName(_ index: Int) -> String { "leg\(index).img" }
  private static let logName = "log.img"

  private func file(_ name: String, on loop: IOLoop) throws(IOFailure) -> FileDevice {
    try FileDevice.open(folder.path(name), .init(isWritable: true, direct: .off), on: loop)
  }

  // MARK: Making

  /// A log device that held something else before.
  func makeLogDevice(_ sectorCount: Sector) throws {
    try folder.write(Pattern.sectors("log junk", .zero..<sectorCount), to: Self.logName)
  }

  /// A log as volume managers make it: all of it filled, for as many regions as there are.
  func makeVolumeManagersLog(_ sectorCount: Sector, length: Sector, isInSync: Bool) throws {
    let fill: UInt8 = isInSync ? 0xff : 0
    var bytes = [UInt8](repeating: fill, count: Int(sectorCount.bytes))
    bytes.replaceSubrange(0..<8, with: Array("rRiM".utf8) + [2, 0, 0, 0])
    bytes.replaceSubrange(8..<16, with: [UInt8](repeating: 0xff, count: 8))
    try folder.write(bytes, to: Self.logName)
    model.makeLog(length: length, isInSync: isInSync)
  }

  /// Leaves it to the caller to make a log with the command.
  func leaveLogToCommand(length: Sector, isInSync: Bool) throws {
    let words = "--size \(length.rawValue) --region \(model.region.rawValue)"
    try folder.write(line: words + (isInSync ? " --in-sync" : ""), to: "create-log")
    model.makeLog(length: length, isInSync: isInSync)
  }

  // MARK: Opening and closing

  /// Activates a mirror of that length and waits until no region is being copied any more.
  ///
  /// - Parameters:
  ///   - count: how many regions are copied: as a rule all that are out of sync.
  ///   - broken: a leg, and the sector from which on it takes no writes.
  func resume(
    length: Sector, policy: Policy = .asLogged, recovering count: Int = .max,
    broken: (leg: Int, from: Sector)? = nil, _ change: (inout MirrorParameters) -> Void = { _ in }
  ) async throws {
    try await open(length, policy, broken: broken, change)
    try await opened().mirror.resume()
    try await opened().mirror.waitForRecovery()
    model.recover(count)
    try await expect(model.inSync)
  }

  private func open(
    _ length: Sector, _ policy: Policy, broken: (leg: Int, from: Sector)? = nil,
    _ change: (inout MirrorParameters) -> Void
  ) async throws {
    try await close()
    guard let regionSize = RegionSize(model.region) else { throw Unexpected("no region size") }
    var parameters = MirrorParameters(regionSize: regionSize)
    parameters.sync = MirrorParameters.SyncPolicy(rawValue: policy.rawValue)
    change(&parameters)
    let loop = try IOLoop.start()
    let legs = try model.offsets.indices.map { index in
      HeldDevice(
        try file(Self.legName(index), on: loop), holding: .write,
        brokenFrom: broken?.leg == index ? broken?.from : nil)
    }
    let mirror = try MirrorDevice(
      legs: zip(legs, model.offsets).map { MirrorLeg($0, offset: $1) },
      log: file(Self.logName, on: loop), sectorCount: length, parameters: parameters, on: loop)
    session = Session(loop: loop, legs: legs, mirror: mirror)
    model.resume(length: length, policy: policy)
  }

  private func opened() throws(Unexpected) -> Session {
    guard let session else { throw Unexpected("there is no mirror") }
    return session
  }

  /// Suspends the mirror and closes its devices.
  func close() async throws {
    guard let session else { return }
    await session.mirror.suspend()
    session.loop.stop()
    self.session = nil
  }

  /// So many regions are in sync, or the images would show something else than they should.
  private func expect(_ inSync: String) async throws {
    let status = try await opened().mirror.status
    let found = "\(status.regionsInSync)/\(status.regionCount)"
    guard found == inSync else { throw Unexpected("\(found) regions in sync, not \(inSync)") }
  }

  /// Activates a mirror, suspends it while it is being recovered, and closes it.
  ///
  /// - Parameters:
  ///   - pieces: how many pieces have been copied when the next ones are held up.
  ///   - inFlight: how many of these there are; they are finished, no more is begun.
  ///   - piece: how many regions a piece has.
  func resume(
    length: Sector, stoppingAfter pieces: Int, inFlight: Int = 1, piece: Int = 1
  ) async throws {
    let region = model.region
    try await open(length, .asLogged) { parameters in
      parameters.conduct.recoveriesInFlight = inFlight
      parameters.conduct.recoveryPiece = region * UInt64(piece)
    }
    let session = try opened()
    await session.legs[1].hold(from: pieces + 1)
    try await session.mirror.resume()
    await session.legs[1].waitUntilHeld(inFlight)
    try await withThrowingTaskGroup { group in
      group.addTask { await session.mirror.suspend() }
      // Time to get to where it waits. Were it too short, more would be copied, which is noticed.
      try await Task.sleep(for: .milliseconds(300))
      await session.legs[1].letGo()
      try await group.waitForAll()
    }
    model.recover((pieces + inFlight) * piece)
    try await expect(model.inSync)
    try await close()
  }

  // MARK: Writing

  /// Writes in one request.
  func write(
    _ label: String, _ first: Sector, _ count: Sector, lostBy lost: [Int] = []
  ) async throws {
    try await Self.put(label, first..<first + count, on: opened().mirror)
    model.write(label, first..<first + count, lostBy: lost)
  }

  private static func put(
    _ label: String, _ sectors: Range<Sector>, on device: any BlockDevice
  ) async throws(IOFailure) {
    let pages = try PagePool.lend(holding: sectors.length)
    let buffer = pages.buffer.slice(.zero, sectors.length)
    buffer.load(from: Pattern.sectors(label, sectors))
    try await device.write(sectors, from: buffer)
  }

  /// A power failure during writes to regions in sync: some legs have them, others don't. The
  /// images are what they are at that moment.
  ///
  /// - Parameters:
  ///   - writes: each one request, to regions of which no other one is for.
  ///   - held: the legs without them.
  ///   - dirty: written before on all legs, but the bits haven't been set again.
  func crash(
    during writes: [(label: String, first: Sector, count: Sector)], heldBy held: [Int],
    leavingDirty dirty: [Range<Sector>] = []
  ) async throws {
    let session = try opened()
    for leg in held { await session.legs[leg].hold() }
    let images = try await withThrowingTaskGroup { group in
      for (label, first, count) in writes {
        let sectors = first..<first + count
        group.addTask { try await Self.put(label, sectors, on: session.mirror) }
        model.write(label, sectors, lostBy: held)
        model.leaveDirty(sectors)
      }
      for leg in held { await session.legs[leg].waitUntilHeld(writes.count) }
      try await waitUntilWritten(held)
      let names = session.legs.indices.map(Self.legName) + [Self.logName]
      let images = try names.map { ($0, try folder.contents(of: $0)) }
      for leg in held { await session.legs[leg].letGo() }
      try await group.waitForAll()
      return images
    }
    try await close()
    for (name, bytes) in images { try folder.overwrite(name, with: bytes) }
    for sectors in dirty { model.leaveDirty(sectors) }
  }

  /// Waits until the files of the legs that aren't held have it all.
  private func waitUntilWritten(_ held: [Int]) async throws {
    for _ in 0..<100 {
      let isWritten = try model.legs.indices.allSatisfy { index in
        try held.contains(index)
          || folder.contents(of: Self.legName(index)) == model.legs[index]
      }
      if isWritten { return }
      try await Task.sleep(for: .milliseconds(20))
    }
    throw Unexpected("a write has not come to a leg that does not hold it")
  }
}
