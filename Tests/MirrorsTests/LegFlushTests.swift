import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import SystemPackage
import Testing

/// A leg tells once that it has lost something, to one of those who flush it.
@Suite struct LegFlushTests {
  /// The log's flush was told that no leg has what was acknowledged: the next one that is asked for
  /// mustn't succeed, though every leg says that all is well.
  @Test func aLossOnAllLegsIsToldToTheUser() throws {
    try simulate { loop in
      let setting = try await MirrorSetting(isKernel: false, on: loop).resumed()
      try await setting.mirror.put("new", 40..<50)
      for leg in setting.legs { MirrorSetting.fail(leg, .flush, times: 1) }
      await loop.sleep(for: .milliseconds(600))
      #expect(setting.legs.allSatisfy { $0.log.of(.flush).last?.failure != nil })
      await #expect(throws: IOFailure.self) { try await setting.mirror.flush() }
      // Told once.
      try await setting.mirror.flush()
      await setting.mirror.suspend()
    }
  }

  /// A user's flush is told of a loss, late, while the log's goes well: the region isn't called clean.
  @Test func theLogWaitsForWhatOthersAreTold() throws {
    try simulate { loop in
      let legs = (0..<2).map { SimulatedDisk("leg\($0)", sectorCount: 512, loop: loop) }
      let log = SimulatedDisk("log", sectorCount: 8, loop: loop)
      var parameters = MirrorParameters(regionSize: try #require(RegionSize(32)))
      parameters.conduct.retryDelay = nil
      let forgetful = LateTeller(legs[0], loop)
      let mirror = try MirrorDevice(
        legs: [MirrorLeg(forgetful), MirrorLeg(legs[1])], log: log, parameters: parameters,
        on: loop)
      try await mirror.resume()
      await mirror.waitForRecovery()
      try await mirror.put("new", 40..<50)
      await loop.sleep(for: .milliseconds(450))
      forgetful.losesNext.withLock { $0 = true }
      // The log's begins and ends meanwhile.
      try await mirror.flush()
      await loop.sleep(for: .seconds(1))
      #expect(await mirror.status.regionsInSync == 15)
      #expect(log.contents[1024] == 0xfd)
      await mirror.suspend()
    }
  }
}

/// A disk of which one flush fails, and takes its time.
private final class LateTeller: ForwardingDevice {
  let underlying: any BlockDevice
  private let loop: IOLoop
  let losesNext = Locked(false)

  init(_ disk: SimulatedDisk, _ loop: IOLoop) { (underlying, self.loop) = (disk, loop) }

  func flush() async throws(IOFailure) {
    let isLost = losesNext.withLock { value in
      defer { value = false }
      return value
    }
    guard isLost else { return try await underlying.flush() }
    await loop.sleep(for: .milliseconds(100))
    throw IOFailure(.flush, name, errno: .ioError)
  }
}
