import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

@testable import DeviceMapper

/// Random verbs while requests are under way: no write is lost or doubled, snapshots hold what was
/// acknowledged when they were taken, and all of it comes back after a loss of power.
@Suite struct SimulationTests {
  @Test func randomVerbs() throws {
    try forEachSeed(120) { seed in try Self.run(seed) }
  }

  @Test func theSameSeedDoesTheSame() throws {
    for seed in UInt64(0)..<5 {
      #expect(try Self.run(seed) == Self.run(seed), "seed \(seed)")
    }
  }

  /// A check that can't fail is none.
  @Test(arguments: [GateFaults.ignoresSuspend, .dropsDeferred])
  func faultsAreSeen(faults: GateFaults) {
    let caught = (UInt64(0)..<10).filter { (try? Self.run($0, faults)) == nil }
    #expect(!caught.isEmpty)
  }

  @discardableResult
  static func run(_ seed: UInt64, _ faults: GateFaults = []) throws -> [[LoggedRequest]] {
    try simulate { loop in
      let power = CrashSwitch(seed: seed)
      let world = MapperWorld(
        ["a", "b", "c"], sectorCount: 1024, seed: seed, power: power, faults: faults, on: loop)
      let run = MapperRun(world, SeededRandom(seed: seed))
      try await run.go()
      try await run.crash(power)
      return ["a", "b", "c"].map { world.disks["/dev/\($0)"]?.log ?? [] }
    }
  }
}

/// One run: lanes that write, each to its own sectors, and verbs meanwhile.
actor MapperRun {
  static let length: Sector = 512
  static let laneLength: Sector = 128
  /// All verbs together take far less, unless one of them waits for what goes on and on.
  static let longest = Duration.milliseconds(300)

  nonisolated let loop: IOLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }
  private let world: MapperWorld
  private var mapper: DeviceMapper { world.mapper }
  private var random: SeededRandom
  /// What the device holds, as far as writes were acknowledged.
  private var model: [UInt8]
  private var isOver = false
  /// What the snapshot must hold; nil: there is none.
  private var snapshot: [UInt8]?

  init(_ world: MapperWorld, _ random: SeededRandom) {
    self.world = world
    self.random = random
    loop = world.loop
    model = [UInt8](repeating: 0, count: Int(Self.length.bytes))
  }

  /// Tables of the same content: all of it on `/dev/a`, or on what stands on it.
  private static func table(_ below: String, _ number: UInt64) -> String {
    switch number {
    case 0: "0 512 linear \(below) 0"
    case 1: "0 200 linear \(below) 0\n200 312 linear \(below) 200"
    case 2: "0 512 delay \(below) 0 1"
    case 3: "0 512 dust \(below) 0 512"
    case 4: "0 512 flakey \(below) 0 1000000 0"
    default: "0 512 mirror core 1 16 2 \(below) 0 /dev/b 0 1 handle_errors"
    }
  }

  func go() async throws {
    try await mapper.create("v", table: Self.table("/dev/a", 0))
    let handle = try await mapper.open("v")
    let deadline = loop.now.advanced(by: Self.longest)
    let lanes = (0..<4 as Range<UInt64>).map { lane in
      let random = random.split()
      return Task(executorPreference: loop) {
        try await self.lane(lane, handle.device, random, until: deadline)
      }
    }
    var failure: (any Error)?
    do {
      for _ in 0..<12 {
        await loop.sleep(for: random.duration(in: .microseconds(1)...Duration.milliseconds(3)))
        try await verb()
      }
    } catch { failure = error }
    isOver = true
    // Whatever a failed verb has left: the lanes must come to their end.
    try? await mapper.resume("v")
    for lane in lanes { try await lane.value }
    if let failure { throw failure }
    try await check(handle.device)
    await handle.close()
  }

  private func lane(
    _ number: UInt64, _ device: MappedDevice, _ seed: SeededRandom, until deadline: LoopInstant
  ) async throws {
    var random = seed
    let first = Self.laneLength * number
    var count = 0
    while !isOver {
      guard loop.now < deadline else { throw CheckFailure("the verbs come to no end") }
      let sectors = random.range(in: first..<first + Self.laneLength, longest: 24)
      if random.chance(1, in: 4) {
        let found = try await device.contents(sectors)
        if let mismatch = ContentMismatch(
          found, expected: Array(model[bytes(sectors)]), from: sectors.lowerBound)
        {
          throw mismatch
        }
      } else {
        count += 1
        let content = Pattern("\(number)-\(count % 1000)").bytes(sectors)
        try await device.put(content, at: sectors.lowerBound)
        model.replaceSubrange(bytes(sectors), with: content)
      }
      if random.chance(1, in: 10) { try await device.flush() }
    }
  }

  private func bytes(_ sectors: Range<Sector>) -> Range<Int> {
    Int(sectors.lowerBound.bytes)..<Int(sectors.upperBound.bytes)
  }

  private func verb() async throws {
    switch random.next(upperBound: 6 as UInt64) {
    case 0:
      try await mapper.suspend("v", isNoFlush: random.chance(1, in: 2))
      await loop.sleep(for: .milliseconds(1))
      try await mapper.resume("v")
    case 1:
      // A table that is refused, and one that is dropped, leave everything as it is.
      _ = try await refusal { [mapper] () async throws(DeviceMapperError) in
        try await mapper.load("v", "0 512 linear v 0")
      }
      try await mapper.load("v", "0 512 error")
      try await mapper.clear("v")
    case 2: if snapshot == nil { try await takeSnapshot() }
    case 3: if snapshot != nil { try await dropSnapshot() }
    case 4 where snapshot != nil:
      try await mapper.load("snap", "0 512 snapshot real /dev/c P 8")
      try await mapper.resume("snap")
    default:
      guard snapshot == nil else { return try await checkSnapshot() }
      let table = Self.table("/dev/a", random.next(upperBound: 6))
      try await mapper.load("v", table)
      let isNoFlush = random.chance(1, in: 2)
      if random.chance(1, in: 2) { try await mapper.suspend("v", isNoFlush: isNoFlush) }
      try await mapper.resume("v", isNoFlush: isNoFlush)
    }
  }

  private func takeSnapshot() async throws {
    try await mapper.suspend(["v"])
    await loop.sleep(for: .milliseconds(1))
    snapshot = model
    try world.disk("c").fill([UInt8](repeating: 0, count: 4096))
    try await mapper.create("real", table: "0 512 linear /dev/a 0")
    try await mapper.load("v", "0 512 snapshot-origin real")
    try await mapper.create("snap", table: "0 512 snapshot real /dev/c P 8")
    try await mapper.resume("v")
  }

  private func dropSnapshot() async throws {
    try await checkSnapshot()
    try await mapper.suspend("v")
    try await mapper.remove("snap")
    try await mapper.load("v", "0 512 linear /dev/a 0")
    try await mapper.suspend("real")
    try await mapper.resume("v")
    try await mapper.remove("real")
    snapshot = nil
  }

  private func checkSnapshot(_ other: DeviceMapper? = nil) async throws {
    guard let snapshot else { return }
    let handle = try await (other ?? mapper).open("snap")
    let found = try await handle.device.contents(0..<Self.length)
    await handle.close()
    if let mismatch = ContentMismatch(found, expected: snapshot, from: 0) { throw mismatch }
  }

  private func check(_ device: MappedDevice) async throws {
    let found = try await device.contents(0..<Self.length)
    if let mismatch = ContentMismatch(found, expected: model, from: 0) { throw mismatch }
    try await checkSnapshot()
  }

  /// The power goes; the same tables are loaded over what the disks still hold.
  func crash(_ power: CrashSwitch) async throws {
    let handle = try await mapper.open("v")
    try await handle.device.flush()
    await handle.close()
    let records = await mapper.records()
    power.turnOff()
    for record in records.reversed() { _ = try? await mapper.remove(record.name) }
    power.turnOn()
    let again = MapperWorld.mapper(over: world.disks, on: loop)
    for record in records {
      try await again.create(record.name, table: record.table, minor: record.minor)
    }
    let other = try await again.open("v")
    let found = try await other.device.contents(0..<Self.length)
    if let mismatch = ContentMismatch(found, expected: model, from: 0) { throw mismatch }
    try await checkSnapshot(again)
    await other.close()
    for record in records.reversed() { try await again.remove(record.name) }
  }
}
