import BlockIO
import BlockIOTesting
import Imaging
import SystemPackage
import Testing

@Suite struct MapStoreTests {
  static let source = ProgressRecord.Source(
    name: "src", bytes: 100 * 512, identity: "file:1", modified: 7)
  static let region = ProgressRecord.Region(from: 0, to: 0, count: 100)

  static func state(_ finished: Sector) -> (Mapfile, ProgressRecord) {
    var map = StatusMap(count: 100)
    map.set(0..<finished, .finished)
    var done = RangeSet<Sector>()
    done.insert(0..<finished)
    return (
      Mapfile(blocks: map.blocks(byteCount: source.bytes)),
      ProgressRecord(
        source: source, region: region,
        destinations: [.init(name: "a", identity: "file:2", durable: done)])
    )
  }

  @Test func `what was saved is found`() throws {
    try simulate { loop in
      let store = MapStore("m", in: SimulatedFolder(loop: loop), on: loop)
      let (map, record) = Self.state(40)
      try await store.save(map, record)
      let found = try await store.load()
      #expect(found.mapfile == map && found.belongTogether)
      #expect(found.record?.destinations == record.destinations)
    }
  }

  /// Three saves, with a loss of power at each step: the one before or the new one is found, whole,
  /// and the record goes with it.
  @Test(arguments: 0..<20 as Range<UInt64>) func `a crash at every step`(_ seed: UInt64) throws {
    for crashPoint in 0..<25 {
      try simulate { loop in
        let power = CrashSwitch(crashPoint: crashPoint, seed: seed)
        let folder = SimulatedFolder(
          seed: seed &* 31 &+ UInt64(crashPoint), loop: loop, power: power)
        let store = MapStore("m", in: folder, on: loop)
        var saved: Sector = 0
        for step: Sector in [10, 20, 30] {
          do {
            let (map, record) = Self.state(step)
            try await store.save(map, record)
            saved = step
          } catch {
            break
          }
        }
        try ensure(saved < 30 || crashPoint == 24, "crash point \(crashPoint) does nothing")
        power.turnOff()
        folder.restart()
        power.turnOn()
        let found = try await MapStore("m", in: folder, on: loop).load()
        guard let map = found.mapfile, let record = found.record else {
          return try ensure(saved == 0, "nothing left of \(saved) at crash point \(crashPoint)")
        }
        let finished = map.blocks.first.map { Sector(holding: $0.bytes.upperBound) } ?? 0
        try ensure(finished == saved || finished == saved + 10, "found \(finished) for \(saved)")
        try ensure(found.belongTogether, "the record doesn't go with its map")
        let durable = record.destinations[0].sectors.sectorCount
        try ensure(durable >= finished, "the record says \(durable), the map \(finished)")
      }
    }
  }

  @Test(arguments: ["write", "sync", "rename", "syncNames"])
  func `after failures of any kind the next save counts`(_ operation: String) throws {
    try simulate { loop in
      let folder = SimulatedFolder(loop: loop)
      let store = MapStore("m", in: folder, on: loop)
      let (first, record) = Self.state(10)
      try await store.save(first, record)
      folder.fail(operation, .noSpace)
      for step: Sector in [20, 30] {
        let (map, record) = Self.state(step)
        await #expect(throws: IOFailure.self) { try await store.save(map, record) }
        let found = try await MapStore("m", in: folder, on: loop).load()
        #expect(found.mapfile != nil && found.belongTogether)
      }
      folder.fail(operation, nil)
      let (last, lastRecord) = Self.state(40)
      try await store.save(last, lastRecord)
      #expect(try await store.load().mapfile == last)
      #expect(folder.names == ["m", "m.kcopyd"])
    }
  }

  @Test func `damaged files are refused with their name and the reason`() throws {
    try simulate { loop in
      let folder = SimulatedFolder(loop: loop)
      let store = MapStore("m", in: folder, on: loop)
      let (map, record) = Self.state(10)
      try await store.save(map, record)
      let good = folder["m.kcopyd"]
      for (text, reason) in [
        ("{", "no progress record"), (#"{"version":2}"#, "of version 2; known is 1"),
        (#"{"version":1}"#, "a damaged progress record"),
      ] {
        folder["m.kcopyd"] = Array(text.utf8)
        let error = await #expect(throws: MapRefusal.self) { try await store.load() }
        #expect(error?.description.hasPrefix("'m.kcopyd': ") == true)
        #expect(error?.description.contains(reason) == true)
      }
      folder["m.kcopyd"] = good
      folder["m"] = Array("0 + 1\n0 10 +\n11 1 -\n".utf8)
      let error = await #expect(throws: MapRefusal.self) { try await store.load() }
      #expect(error?.description.hasPrefix("'m' is no mapfile: line 3: a gap") == true)
    }
  }

  @Test func `any bytes as a record end well`() throws {
    let good = Self.state(40).1.bytes
    try forEachSeed(2000) { seed in
      var random = SeededRandom(seed: seed)
      var bytes = good
      for _ in 0..<1 + random.next(upperBound: UInt64(4)) {
        let place = Int(random.next(upperBound: UInt64(bytes.count)))
        bytes[place] = random.element(of: Array("0123456789[]{},\":-. x".utf8))
      }
      guard let record = try? ProgressRecord(parsing: bytes) else { return }
      let limit = Sector(holding: record.source.bytes)
      for destination in record.destinations {
        let ends = destination.sectors.ranges.map(\.upperBound)
        try ensure(ends.allSatisfy { $0 <= limit }, "beyond the source")
      }
    }
  }
}
