import BlockIO
import BlockIOTesting
import Kcopyd

extension BlockDevice {
  func region(_ sectors: Range<Sector>) -> IORegion {
    IORegion(self, sector: sectors.lowerBound, count: sectors.length)
  }

  /// All of it.
  var region: IORegion { IORegion(self, count: sectorCount) }
}

extension SimulatedDisk {
  /// Whether `sectors` hold what the disk was made with.
  func isUntouched(_ sectors: Range<Sector>) -> Bool {
    mismatch(sectors, with: Pattern(name)) == nil
  }

  /// Whether `sectors` hold what `other` was made with from sector `start` on.
  func holds(_ other: SimulatedDisk, from start: Sector, at sectors: Range<Sector>) -> Bool {
    mismatch(sectors, with: Pattern(other.name), from: start) == nil
  }

  /// Whether `sectors` are zeros.
  func isZero(_ sectors: Range<Sector>) -> Bool {
    mismatch(
      from: sectors.lowerBound, with: [UInt8](repeating: 0, count: Int(sectors.length.bytes)))
      == nil
  }
}

extension FaultPlan {
  /// A plan with one permanent fault.
  static func failing(_ operation: IOFailure.Operation, _ sectors: Range<Sector>) -> FaultPlan {
    var plan = FaultPlan()
    plan.fail(operation, sectors)
    return plan
  }

  /// A plan that makes requests on `sectors` slow.
  static func slow(_ sectors: Range<Sector>, by duration: Duration = .seconds(1)) -> FaultPlan {
    var plan = FaultPlan()
    plan.slowDown(sectors, by: duration)
    return plan
  }
}

extension DeviceLimits {
  static var zoned: DeviceLimits {
    var limits = SimulatedDisk.allCapabilities
    limits.isZoned = true
    return limits
  }

  static var withoutZeroing: DeviceLimits {
    var limits = SimulatedDisk.allCapabilities
    limits.supportsWriteZeroes = false
    return limits
  }
}

extension RangeSet<Sector> {
  /// The set of these ranges.
  static func of(_ ranges: Range<Sector>...) -> RangeSet<Sector> { RangeSet(ranges) }
}

/// Another name of a device.
final class Alias: ForwardingDevice {
  let underlying: any BlockDevice
  let name = "alias"
  /// Where on another device it is said to be.
  let placements: [DevicePlacement]

  init(_ device: any BlockDevice) {
    underlying = device
    placements = []
  }

  /// A device of its own, as a partition is, that is these sectors of another one.
  init(_ device: any BlockDevice, on other: any BlockDevice, _ sectors: Range<Sector>) {
    underlying = device
    placements = [
      DevicePlacement(
        other.identity, bytes: sectors.lowerBound.bytes..<sectors.upperBound.bytes,
        isInOrder: true)
    ]
  }
}

/// A device of any size that holds nothing: each request takes the same time.
final class NullDevice: BlockDevice {
  let name = "null"
  let sectorCount: Sector
  let limits = SimulatedDisk.allCapabilities
  private let loop: IOLoop
  private let latency: Duration
  private let log = Locked<[(sectors: Range<Sector>, start: LoopInstant)]>([])

  init(sectorCount: Sector, latency: Duration = .milliseconds(1), loop: IOLoop) {
    self.sectorCount = sectorCount
    self.latency = latency
    self.loop = loop
  }

  /// Where the requests were, in the order in which they were made.
  var requests: [(sectors: Range<Sector>, start: LoopInstant)] { log.value }

  private func take(_ request: Range<Sector>) async {
    let now = loop.now
    log.withLock { $0.append((request, now)) }
    await loop.sleep(for: latency)
  }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    await take(sectors)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    await take(sectors)
  }

  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    await take(sectors)
  }

  func flush() async throws(IOFailure) {}
}
