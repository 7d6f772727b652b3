import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// Mirrors that make no sense are refused, before anything is read or written.
@Suite struct MirrorRefusalTests {
  /// Makes a mirror over some of five disks with 1000 sectors and a small one.
  private func refusal(
    legs: [(disk: Int, offset: Sector)], log: Int? = nil, length: Sector? = nil,
    regionSize: Sector = 16
  ) throws -> MirrorError? {
    try simulate { loop in
      let disks = (0..<10).map { SimulatedDisk("disk\($0)", sectorCount: 1000, loop: loop) }
      let small = SimulatedDisk("small", sectorCount: 3, loop: loop)
      let all = disks + [small]
      let size = try #require(RegionSize(regionSize))
      var refusal: MirrorError?
      do throws(MirrorError) {
        _ = try MirrorDevice(
          legs: legs.map { MirrorLeg(all[$0.disk], offset: $0.offset) }, log: log.map { all[$0] },
          sectorCount: length, parameters: MirrorParameters(regionSize: size), on: loop)
      } catch {
        refusal = error
      }
      for disk in all { #expect(disk.log.isEmpty) }
      return refusal
    }
  }

  @Test func theNumberOfLegs() throws {
    for count in 0...10 {
      let refusal = try refusal(legs: (0..<count).map { ($0, 0) })
      #expect(refusal == ((2...9).contains(count) ? nil : .legCount(count)))
    }
  }

  @Test func legsThatAreTooSmall() throws {
    #expect(try refusal(legs: [(0, 0), (1, 0)], length: 1000) == nil)
    #expect(
      try refusal(legs: [(0, 0), (1, 0)], length: 1001)
        == .legTooSmall(name: "disk0", sectors: 1000, needed: 1001))
    #expect(
      try refusal(legs: [(0, 0), (1, 501)], length: 500)
        == .legTooSmall(name: "disk1", sectors: 1000, needed: 1001))
    let end = Sector(.max)
    #expect(
      try refusal(legs: [(0, 0), (1, end)], length: 500)
        == .legTooSmall(name: "disk1", sectors: 1000, needed: end))
  }

  /// One device may have two legs where they don't overlap; a leg is no log.
  @Test func theSameDeviceTwice() throws {
    #expect(try refusal(legs: [(0, 0), (0, 500)], length: 500) == nil)
    #expect(
      try refusal(legs: [(0, 0), (0, 499)], length: 500) == .sameDevice("disk0", "disk0"))
    #expect(
      try refusal(legs: [(0, 0), (1, 0), (0, 0)]) == .sameDevice("disk0", "disk0"))
    #expect(
      try refusal(legs: [(0, 0), (1, 0)], log: 1) == .sameDevice("disk1", "disk1"))
  }

  /// A log has two sectors of header and whole words of bits: one sector has 4096.
  @Test func aLogThatIsTooSmall() throws {
    #expect(try refusal(legs: [(0, 0), (1, 0)], log: 10) == nil)
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 8194, loop: loop) }
      let log = SimulatedDisk("log", sectorCount: 3, loop: loop)
      let parameters = MirrorParameters(regionSize: try #require(RegionSize(2)))
      _ = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: log, sectorCount: 8192, parameters: parameters,
        on: loop)
      #expect(throws: MirrorError.logTooSmall(name: "log", sectors: 3, needed: 4)) {
        _ = try MirrorDevice(
          legs: legs.map { MirrorLeg($0) }, log: log, sectorCount: 8194, parameters: parameters,
          on: loop)
      }
      for disk in legs + [log] { #expect(disk.log.isEmpty) }
    }
  }

  @Test func regionSizesOutOfRange() throws {
    for (size, isGood) in [(2, true), (512, true), (1024, false)] as [(Sector, Bool)] {
      switch try refusal(legs: [(0, 0), (1, 0)], regionSize: size) {
      case nil: #expect(isGood)
      case .regionSize: #expect(!isGood)
      case let other?: Issue.record("\(other)")
      }
    }
  }
}
