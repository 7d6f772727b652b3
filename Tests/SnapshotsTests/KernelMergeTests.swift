import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots
import Testing

/// Merges that a kernel began are carried on with, and those of a kernel's stores withstand errors
/// and losses of power.
@Suite struct KernelMergeTests {
  /// What the snapshot of a case held, which its origin must hold in the end.
  private static func snapshot(of vectors: KernelVectors.Case) throws -> String {
    let reads = try vectors.stage("take").ops.filter { $0.op == "sha256" }
    return try #require(reads.first { $0.device == "/dev/mapper/snap" }?.output)
  }

  /// A merge that was cut off: the device shows the snapshot at once, and at the
  /// end the origin does, and the store is as empty as the kernel's.
  @Test(arguments: ["merge-half", "merge-uncommitted", "merge-failed"])
  func crashedMergesGoOn(_ name: String) throws {
    let vectors = try KernelVectors.named(name)
    let sum = try Self.snapshot(of: vectors)
    try simulate { loop in
      let machine = try VectorMachine(
        vectors, vectors.imagesAfter(vectors.stage("merge")), on: loop)
      let origin = try Origin(machine.disk("origin"), on: loop)
      let events = Locked<[SnapshotEvent]>([])
      let merge = try await origin.addMerge(cow: machine.disk("cow")) { event in
        events.withLock { $0.append(event) }
      }
      let expected = try vectors.bytes(sha256: sum)
      try await merge.resume()
      let meanwhile = try await merge.contents(0..<merge.sectorCount)
      await merge.waitUntilEnded()
      let status = await merge.status
      #expect(status.allocated == status.metadata)
      #expect(status.exceptions == 0)
      #expect(events.value == [.merged])
      let after = try await merge.contents(0..<merge.sectorCount)
      for seen in [meanwhile, after] {
        #expect(ContentMismatch(seen, expected: expected, from: 0) == nil)
      }
      let finished = try vectors.imagesAfter(vectors.stage("finish"))
      #expect(try machine.differences(from: finished).isEmpty)
    }
  }

  /// A merge that stopped at an error here – having done other chunks than the kernel had – reads
  /// as the snapshot does, and is finished on a sound origin.
  @Test func aFailedMergeIsFinishedLater() throws {
    let vectors = try KernelVectors.named("merge-failed")
    let sum = try Self.snapshot(of: vectors)
    try simulate { loop in
      let take = try vectors.stage("take")
      let machine = try VectorMachine(vectors, vectors.imagesAfter(take), on: loop)
      #expect(try await machine.replay(vectors.stage("merge")) == [])
      try await machine.mapper.create(
        "snap", ["0 1024 snapshot /dev/vda /dev/vdb P 16"], isReadOnly: true)
      try await machine.expectContents(of: "/dev/mapper/snap", sha256: sum)
      try await machine.mapper.remove("snap")
      #expect(try await machine.replay(vectors.stage("finish")) == [])
      let finished = try vectors.imagesAfter(vectors.stage("finish"))
      #expect(try machine.differences(from: finished).isEmpty)
    }
  }

  /// A write held by a step that fails, fails; writes to what isn't being merged go on.
  @Test func aFailedMergeGoesOnServing() throws {
    let vectors = try KernelVectors.named("merge-failed")
    let sum = try Self.snapshot(of: vectors)
    try simulate { loop in
      let machine = try VectorMachine(
        vectors, vectors.imagesAfter(vectors.stage("take")), on: loop)
      try await machine.mapper.create(
        "broken", ["0 512 linear /dev/vda 0", "512 512 error"], isReadOnly: false)
      try await machine.mapper.create(
        "merge", ["0 1024 snapshot-merge /dev/mapper/broken /dev/vdb P 16"], isReadOnly: false)
      let status = try await machine.mapper.waitForMerge("merge")
      #expect(status == "0 1024 snapshot-merge Merge failed")
      let merge = try await machine.mapper.device("/dev/mapper/merge")
      var expected = Array(try vectors.bytes(sha256: sum)[..<(512 * 512)])
      // Into an exception, and beside all of them.
      for first in [100, 300] as [UInt64] {
        let bytes = KernelVectors.Run(first, 2, "late").bytes
        try await merge.put(bytes, at: Sector(first))
        expected.replaceSubrange(Int(first) * 512..<Int(first + 2) * 512, with: bytes)
      }
      let seen = try await merge.contents(0..<512)
      #expect(ContentMismatch(seen, expected: expected, from: 0) == nil)
      // The chunk that couldn't be merged is read from the COW device still.
      let bytes = try await merge.contents(608..<624)
      #expect(bytes == KernelVectors.Run(608, 16, "snap v2").bytes)
      await #expect(throws: IOFailure.self) { try await merge.contents(600..<610) }
      await #expect(throws: IOFailure.self) { try await merge.put("new", 700..<701) }
    }
  }

  /// A merge whose exceptions could not be cleared hands all of them to its successor. Until then
  /// nobody knows which of them the store still has, and their chunks can't be written.
  @Test func aFailedClearingIsDoneAgain() throws {
    let vectors = try KernelVectors.named("merge-uncommitted")
    let sum = try Self.snapshot(of: vectors)
    let start = try vectors.imagesAfter(vectors.stage("take"))
    let late = KernelVectors.Run(640, 2, "late").bytes
    var bytes = try vectors.bytes(sha256: sum)
    bytes.replaceSubrange(640 * 512..<642 * 512, with: late)
    let expected = bytes
    try simulate { loop in
      let cow = try Self.disk("cow", start, on: loop)
      let below = try Self.disk("origin", start, on: loop)
      let origin = try Origin(below, on: loop)
      var plan = FaultPlan()
      plan.fail(.write, 32..<64)
      cow.plan = plan
      let failing = try await origin.addMerge(cow: cow)
      try await failing.resume()
      await failing.waitUntilEnded()
      #expect(await failing.status.line == "Merge failed")
      await #expect(throws: IOFailure.self) { try await failing.put(late, at: 640) }
      cow.plan = FaultPlan()
      let next = try await origin.addMerge(cow: cow)
      await failing.suspend()
      cow.clearLog()
      try await next.resume()
      // It is there before the merge has begun its first step, and waits for its end.
      try await next.put(late, at: 640)
      await failing.remove()
      await next.waitUntilEnded()
      let written = cow.log.of(.write).compactMap(\.sectors)
      #expect(written.allSatisfy { $0 == $0.clamped(to: 32..<64) }, "\(written)")
      #expect(await next.status.line == "64/1024 64")
      #expect(await next.status.exceptions == 0)
      #expect(below.mismatch(with: expected) == nil)
    }
  }

  /// A snapshot that takes the store of a failed merge over goes on adding to it, even where the
  /// merge had gone back to an area that is full – and could not write a chunk to the origin, or
  /// had cleared a part of the exceptions.
  @Test(arguments: [("origin", 2400), ("cow", 12)] as [(String, Sector)])
  func aSnapshotGoesOnWithAFailedMerge(_ device: String, _ sector: Sector) throws {
    let vectors = try KernelVectors.named("snap-chunk8-full-area")
    let start = try vectors.imagesAfter(vectors.stage("take"))
    try simulate { loop in
      let cow = try Self.disk("cow", start, on: loop)
      let below = try Self.disk("origin", start, on: loop)
      let origin = try Origin(below, on: loop)
      var plan = FaultPlan()
      plan.fail(.write, sector..<sector + 1)
      let broken = device == "cow" ? cow : below
      broken.plan = plan
      let failing = try await origin.addMerge(cow: cow)
      try await failing.resume()
      await failing.waitUntilEnded()
      #expect(await failing.status.line == "Merge failed")
      broken.plan = FaultPlan()
      let snapshot = try await origin.addSnapshot(cow: cow)
      await failing.suspend()
      try await snapshot.resume()
      await failing.remove()
      let expected = try await snapshot.contents(0..<snapshot.sectorCount)
      try await origin.device.put("new", 3000..<3001)
      #expect(try await snapshot.contents(0..<snapshot.sectorCount) == expected)
      #expect(await snapshot.status.line == "2080/2200 24")
      await snapshot.remove()
      let again = try await Origin(below, on: loop).addSnapshot(cow: cow)
      #expect(await again.status.exceptions == 257)
      #expect(try await again.contents(0..<again.sectorCount) == expected)
    }
  }

  // MARK: Loss of power

  /// Merges of stores that a kernel wrote, the power going at every point on the way: what is left
  /// is the snapshot, and a merge that goes on ends as the kernel's.
  @Test(arguments: ["merge-half", "merge-uncommitted"])
  func anyLossOfPower(_ name: String) throws {
    let vectors = try KernelVectors.named(name)
    let start = try vectors.imagesAfter(vectors.stage("take"))
    let finished = try vectors.imagesAfter(vectors.stage("finish"))
    try forEachSeed(3) { seed in
      let operations = try Self.merge(start, finished, seed: seed, crashPoint: nil)
      try ensure(operations > 3, "only \(operations) operations")
      // Every point where there are few, else some of them, others with each seed.
      let step = max(1, operations / 20)
      for point in stride(from: Int(seed) % step, to: operations, by: step) {
        _ = try Self.merge(start, finished, seed: seed, crashPoint: point)
      }
    }
  }

  private static func merge(
    _ start: [String: [UInt8]], _ finished: [String: [UInt8]], seed: UInt64, crashPoint: Int?
  ) throws -> Int {
    try simulate { loop in
      let power = CrashSwitch(crashPoint: crashPoint, seed: seed &+ UInt64(crashPoint ?? 0))
      var disks: [String: SimulatedDisk] = [:]
      for name in ["cow", "origin"] {
        disks[name] = try disk(name, start, seed: seed, on: loop, power)
      }
      guard let below = disks["origin"], let cow = disks["cow"] else { return 0 }
      try await merge(below, cow, on: loop)
      let operations = power.operations
      power.turnOff()
      power.turnOn()
      let origin = try Origin(below, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow)
      let seen = try await snapshot.contents(0..<below.sectorCount)
      let expected = finished["origin"] ?? []
      if let mismatch = ContentMismatch(seen, expected: expected, from: 0) { throw mismatch }
      await snapshot.remove()
      try await merge(below, cow, on: loop)
      for (name, bytes) in finished {
        if let mismatch = disks[name]?.mismatch(with: bytes) { throw mismatch }
      }
      return operations
    }
  }

  /// A disk that holds an image.
  private static func disk(
    _ name: String, _ images: [String: [UInt8]], seed: UInt64 = 0, on loop: IOLoop,
    _ power: CrashSwitch? = nil
  ) throws -> SimulatedDisk {
    let bytes = try #require(images[name])
    let disk = SimulatedDisk(
      name, sectorCount: Sector(UInt64(bytes.count / 512)), content: .zeroes, seed: seed,
      loop: loop, crashSwitch: power)
    disk.fill(bytes)
    return disk
  }

  /// Merges as far as it goes.
  private static func merge(
    _ below: SimulatedDisk, _ cow: SimulatedDisk, on loop: IOLoop
  ) async throws {
    let origin = try Origin(below, on: loop)
    let merge = try await origin.addMerge(cow: cow)
    try await merge.resume()
    await merge.waitUntilEnded()
    await merge.remove()
  }
}
