import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// What a mirror is for: the same on all legs, whatever happens to one of them.
@Suite struct MirrorTests {
  @Test func copiesToAllLegsAndTellsSo() throws {
    try simulate { loop in
      let legs = (0..<3).map { SimulatedDisk("leg\($0)", sectorCount: 1000, loop: loop) }
      let log = SimulatedDisk("log", sectorCount: 16, loop: loop)
      let parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      let mirror = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: log, parameters: parameters, on: loop)
      try await mirror.resume()
      try await mirror.put("new", 100..<200)
      await mirror.waitForRecovery()
      let status = await mirror.status
      #expect(status.line() == "3 leg0 leg1 leg2 32/32 1 AAA 3 disk log A")
      try await mirror.put("newer", 150..<160)
      let expected = patterns(
        ("leg0", 0..<100), ("new", 100..<150), ("newer", 150..<160), ("new", 160..<200),
        ("leg0", 200..<1000))
      await mirror.suspend()
      for leg in legs { #expect(leg.contents == expected) }
      let again = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: log, parameters: parameters, on: loop)
      for leg in legs { leg.clearLog() }
      try await again.resume()
      await again.waitForRecovery()
      #expect(legs[1].count(of: .write) == 0)
      #expect(try await again.contents(0..<1000) == expected)
      await again.suspend()
    }
  }

  @Test func goesOnWithoutALegAndComesBack() throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let log = SimulatedDisk("log", sectorCount: 16, loop: loop)
      let parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      let mirror = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: log, parameters: parameters, on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      var plan = FaultPlan()
      plan.fail(.write, 0..<512)
      legs[0].plan = plan
      try await mirror.put("new", 10..<50)
      #expect(await mirror.status.line() == "2 leg0 leg1 14/16 1 DA 3 disk log A")
      #expect(try await mirror.contents(10..<50) == patterns(("new", 10..<50)))
      legs[0].plan = FaultPlan()
      await loop.sleep(for: .seconds(3))
      await mirror.waitForRecovery()
      #expect(await mirror.status.line() == "2 leg0 leg1 16/16 1 AA 3 disk log A")
      await mirror.suspend()
      #expect(legs[0].contents == legs[1].contents)
      #expect(legs[0].mismatch(from: 10, with: patterns(("new", 10..<50))) == nil)
    }
  }

  @Test func mendsWhatOneLegCannotRead() throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      let mirror = try MirrorDevice(
        legs: legs.map { MirrorLeg($0) }, log: nil, parameters: parameters, on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      var plan = FaultPlan()
      plan.fail(.read, 70..<72, times: 1)
      legs[0].plan = plan
      #expect(try await mirror.contents(64..<128) == patterns(("leg0", 64..<128)))
      await loop.sleep(for: .seconds(1))
      #expect(await mirror.status.line() == "2 leg0 leg1 16/16 1 AA 1 core")
      #expect(legs[0].count(of: .write) == 1)
      await mirror.suspend()
    }
  }
}
