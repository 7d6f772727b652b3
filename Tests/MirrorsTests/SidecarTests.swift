import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// Which leg is right after a restart.
@Suite struct SidecarTests {
  private static func mirror(
    _ legs: [SimulatedDisk], _ log: SimulatedDisk, _ sidecar: SimulatedDisk?, _ loop: IOLoop,
    trustsFirstLeg: Bool = true
  ) throws -> MirrorDevice {
    var parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
    parameters.conduct.trustsFirstLeg = trustsFirstLeg
    return try MirrorDevice(
      legs: legs.map { MirrorLeg($0) }, log: log, sidecar: sidecar, parameters: parameters, on: loop
    )
  }

  private static func disks(_ loop: IOLoop) -> (legs: [SimulatedDisk], log: SimulatedDisk) {
    (
      (0..<3).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) },
      SimulatedDisk("log", sectorCount: 16, loop: loop)
    )
  }

  /// Leg 0 misses a write, another leg misses another one; then everything is made anew: what was
  /// acknowledged is still there, and in the end on all legs.
  @Test func noAcknowledgedWriteIsCopiedOver() throws {
    try simulate { loop in
      let (legs, log) = Self.disks(loop)
      let sidecar = SimulatedDisk("side", sectorCount: 256, content: .zeroes, loop: loop)
      let mirror = try Self.mirror(legs, log, sidecar, loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      legs[0].plan.fail(.write, 0..<64)
      legs[1].plan.fail(.write, 256..<288)
      try await mirror.put("first", 10..<50)
      try await mirror.put("second", 260..<270)
      try await mirror.flush()
      await mirror.suspend()
      for leg in legs { leg.plan = FaultPlan() }

      let again = try Self.mirror(legs, log, sidecar, loop)
      try await again.resume()
      #expect(try await again.contents(10..<50) == patterns(("first", 10..<50)))
      await again.waitForRecovery()
      let expected = patterns(
        ("leg0", 0..<10), ("first", 10..<50), ("leg0", 50..<260), ("second", 260..<270),
        ("leg0", 270..<512))
      #expect(await again.status.regionsInSync == 16)
      await again.suspend()
      for leg in legs { #expect(leg.mismatch(with: expected) == nil) }
    }
  }

  /// Without a sidecar a mirror can refuse to guess.
  @Test func refusesToGuess() throws {
    try simulate { loop in
      let (legs, log) = Self.disks(loop)
      let mirror = try Self.mirror(legs, log, nil, loop, trustsFirstLeg: false)
      // A new log: all regions are copied from the first leg, as always.
      try await mirror.resume()
      await mirror.waitForRecovery()
      legs[0].plan.fail(.write, 0..<64)
      try await mirror.put("first", 10..<50)
      await mirror.suspend()
      for leg in legs { leg.clearLog() }
      let again = try Self.mirror(legs, log, nil, loop, trustsFirstLeg: false)
      await #expect(throws: MirrorError.self) { try await again.resume() }
      for leg in legs { #expect(leg.log.isEmpty) }
    }
  }

  /// A torn write of the sidecar leaves the one before; another mirror's is refused.
  @Test func anotherMirrorsIsRefused() throws {
    try simulate { loop in
      let (legs, log) = Self.disks(loop)
      let sidecar = SimulatedDisk("side", sectorCount: 256, content: .zeroes, loop: loop)
      let mirror = try Self.mirror(legs, log, sidecar, loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      legs[0].plan.fail(.write, 0..<64)
      try await mirror.put("first", 10..<50)
      await mirror.suspend()
      let fewer = try Self.mirror(Array(legs.prefix(2)), log, sidecar, loop)
      await #expect(throws: MirrorError.self) { try await fewer.resume() }
    }
  }
}
