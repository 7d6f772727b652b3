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

  /// Of two writes to a region out of sync, which go to one leg alone, one fails: the other one is
  /// nowhere else, and what other legs hold is older.
  @Test func aFailedWriteDoesNotUndoAnother() throws {
    try simulate { loop in
      let (legs, log) = Self.disks(loop)
      let mirror = try Self.mirror(legs, log, nil, loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      legs[0].plan.fail(.write, 0..<32)
      try await mirror.put("first", 0..<4)
      legs[1].plan.slowDown(8..<9, by: .milliseconds(50))
      legs[1].plan.fail(.write, 8..<9, times: 1)
      await withTaskGroup { group in
        group.addTask(executorPreference: loop) { try? await mirror.put("lost", 8..<9) }
        group.addTask(executorPreference: loop) { try? await mirror.put("second", 20..<24) }
      }
      for leg in legs { leg.plan = FaultPlan() }
      await loop.sleep(for: .seconds(5))
      await mirror.waitForRecovery()
      await mirror.suspend()
      for leg in legs {
        #expect(leg.mismatch(from: 20, with: patterns(("second", 20..<24))) == nil)
      }
    }
  }

  /// A region comes into sync after leg 0 missed a write there; then leg 0 alone gets one. What the
  /// sidecar said at first would now copy the older data over it.
  @Test func whatWasTrueBeforeIsForgotten() throws {
    try simulate { loop in
      let (legs, log) = Self.disks(loop)
      let sidecar = SimulatedDisk("side", sectorCount: 256, content: .zeroes, loop: loop)
      let mirror = try Self.mirror(legs, log, sidecar, loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      legs[0].plan.fail(.write, 0..<32, times: 1)
      try await mirror.put("first", 0..<4)
      await loop.sleep(for: .seconds(5))
      await mirror.waitForRecovery()
      #expect(await mirror.status.regionsInSync == 16)
      for leg in legs.dropFirst() { leg.plan.fail(.write, 0..<32) }
      try await mirror.put("second", 8..<12)
      await mirror.suspend()
      for leg in legs { leg.plan = FaultPlan() }

      let again = try Self.mirror(legs, log, sidecar, loop)
      try await again.resume()
      await again.waitForRecovery()
      await again.suspend()
      for leg in legs { #expect(leg.mismatch(from: 8, with: patterns(("second", 8..<12))) == nil) }
    }
  }

  /// A leg that couldn't be flushed for the log has lost what was acknowledged: the sidecar says so
  /// at once, since the next flush may go well.
  @Test func aFailedFlushForTheLogIsKept() throws {
    try simulate { loop in
      let (legs, log) = Self.disks(loop)
      let sidecar = SimulatedDisk("side", sectorCount: 256, content: .zeroes, loop: loop)
      let mirror = try Self.mirror(legs, log, sidecar, loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("first", 0..<4)
      legs[0].plan.failFlushes(times: 1)
      await loop.sleep(for: .milliseconds(600))
      let runs = try await MirrorSidecar(of: sidecar).runs
      #expect(runs.map(\.regions) == [0..<1] && runs.first?.holders == [1, 2])
      try await mirror.flush()
      await mirror.suspend()
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
