import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Snapshots

/// Entries behind the end of a store's list: not read, and gone for good before the list grows.
@Suite struct StoreRemainsTests {
  /// Two exceptions, and behind the end of the list others that would come alive one after the
  /// other if the list grew up to them – and an end of the list that isn't all zeros itself.
  private static var store: [UInt8] {
    var store = StoreLoaderTests.Sample([(old: 5, new: 2), (old: 6, new: 3)])
    store.put(index: 2, 77, 0)
    for index in [3, 4, 31, 32, 100, 255] { store.put(index: index, 20, UInt64(10 + index % 20)) }
    return store.bytes
  }

  private static func area(_ bytes: [UInt8]) -> [[UInt64]] {
    (0..<256).map { index in
      [0, 8].map { bytes.number(at: 4096 + index * 16 + $0, as: UInt64.self) }
    }
  }

  @Test func clearsThemWithTheFirstCommit() throws {
    try simulate { loop in
      let cow = SimulatedDisk("cow", sectorCount: 320, content: .zeroes, loop: loop)
      cow.fill(Self.store)
      let origin = try Origin(SimulatedDisk("disk", sectorCount: 512, loop: loop), on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow)
      try await snapshot.resume()
      #expect(await snapshot.status.line == "32/320 16")
      #expect(cow.contents == Self.store)
      try await origin.device.put("new", 0..<1)
      let expected: [[UInt64]] = [[5, 2], [6, 3], [0, 4]]
      let found = Self.area(cow.contents)
      #expect(Array(found.prefix(3)) == expected)
      #expect(found.dropFirst(3).allSatisfy { $0 == [0, 0] })
    }
  }

  /// Whenever the power goes while exceptions are added, the store holds the first two, those that
  /// were acknowledged and at most one more, with their data, and nothing that lay behind the end.
  @Test func theyNeverComeAlive() throws {
    try forEachSeed(8) { seed in
      let operations = try Self.run(seed: seed, crashPoint: nil)
      for point in 0..<operations { _ = try Self.run(seed: seed, crashPoint: point) }
    }
  }

  /// Four exceptions more, the power going under operation `crashPoint`; how many operations.
  private static func run(seed: UInt64, crashPoint: Int?) throws -> Int {
    try simulate { loop in
      let power = CrashSwitch(crashPoint: crashPoint, seed: seed &+ UInt64(crashPoint ?? 0))
      let cow = SimulatedDisk(
        "cow", sectorCount: 320, content: .zeroes, seed: seed, loop: loop, crashSwitch: power)
      cow.fill(Self.store)
      let disk = SimulatedDisk("disk", sectorCount: 512, seed: seed, loop: loop)
      let origin = try Origin(disk, on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow)
      try await snapshot.resume()
      var acknowledged: UInt64 = 0
      for chunk in (0 as UInt64)..<4 {
        // Never fails: at worst the snapshot is lost.
        try await origin.device.put("new", Sector(chunk * 8)..<Sector(chunk * 8 + 1))
        guard await snapshot.status.condition == .valid else { break }
        acknowledged += 1
      }
      let operations = power.operations
      power.turnOff()
      power.turnOn()
      try check(await StoreLoader(device: cow, origin: disk, loop: loop).load(), cow, acknowledged)
      return operations
    }
  }

  private static func check(
    _ store: LoadedStore?, _ cow: SimulatedDisk, _ acknowledged: UInt64
  ) throws {
    guard let store else { throw CheckFailure("no store") }
    try ensure(store.isValid, "marked invalid without power")
    let added = store.exceptions.count - 2
    try ensure(
      acknowledged...acknowledged + 1 ~= added, "\(added) added, \(acknowledged) acknowledged")
    let expected: [Exception] =
      [Exception(old: 5, new: 2), Exception(old: 6, new: 3)]
      + (0..<added).map { Exception(old: OriginChunk($0), new: CowChunk($0 + 4)) }
    try ensure(store.entries == expected, "entries \(store.entries)")
    for chunk in 0..<added {
      let start = Sector((chunk + 4) * 8)
      let mismatch = cow.mismatch(
        start..<start + 8, with: Pattern("disk"), from: Sector(chunk * 8))
      if let mismatch { throw mismatch }
    }
  }
}
