public import BlockIO

/// The sidecar of a mirror, looked at or made without the mirror.
public struct MirrorSidecar: Sendable {
  /// Neighbouring regions of which the same legs hold what was acknowledged.
  public struct Run: Hashable, Sendable {
    /// The regions.
    public let regions: Range<Region>
    /// The legs that hold everything, by index; none: it isn't known which.
    public let holders: Set<Int>
  }

  /// How long a device must be for one.
  public static let length = Sidecar.length

  /// How many legs the mirror has that wrote it; nil as long as none has.
  public let legCount: Int?
  /// How many regions it has; nil as long as none has written it.
  public let regionCount: UInt64?
  /// How long these are; nil as long as none has written it.
  public let regionSize: Sector?
  /// Where it says which legs are right, in the order of the regions. Of all others the first leg
  /// is. It counts only where the mirror's log calls a region dirty: otherwise all legs are the
  /// same, and what it says is from before.
  public let runs: [Run]

  /// Reads a sidecar.
  ///
  /// - Throws: when the device can't be read, is too small, or holds something else.
  public init(of device: any BlockDevice) async throws(MirrorError) {
    let sidecar = try Sidecar(device, shape: nil)
    let found = try await sidecar.read()
    if sidecar.shape == nil { try await Self.checkBlank(device) }
    legCount = sidecar.shape?.legCount
    regionCount = sidecar.shape?.regionCount
    regionSize = sidecar.shape?.regionSize
    let legs = 0..<MirrorParameters.legCount.upperBound
    runs = found.map { run in
      Run(
        regions: run.regions,
        holders: Set(legs.filter { run.holders >> UInt64($0) & 1 == 1 }))
    }
  }

  /// What it says of regions that the mirror's log calls dirty, or knows nothing of.
  public func runs(dirtyIn log: MirrorLog) -> [Run] {
    runs.flatMap { run in
      var parts: [Run] = []
      for region in run.regions
      where region.rawValue >= log.inspectedCount || !log.isClean(region) {
        let next = region.advanced(by: 1)
        let start = parts.last.flatMap { $0.regions.upperBound == region ? $0.regions : nil }
        if start != nil { parts.removeLast() }
        parts.append(Run(regions: (start?.lowerBound ?? region)..<next, holders: run.holders))
      }
      return parts
    }
  }

  /// Refuses a sidecar of a mirror with other legs or regions.
  public func checkFits(
    legCount: Int, regionCount: UInt64, regionSize: RegionSize, name: String
  ) throws(MirrorError) {
    guard let legs = self.legCount, let regions = self.regionCount, let size = self.regionSize
    else { return }  // A new one fits any.
    let found = Sidecar.Shape(legCount: legs, regionCount: regions, regionSize: size)
    try found.check(
      .init(legCount: legCount, regionCount: regionCount, regionSize: regionSize.sectors),
      name: name)
  }

  /// Makes a new sidecar, which says nothing yet; durable when this returns.
  ///
  /// - Parameters:
  ///   - device: where.
  ///   - overwrites: whether a sidecar, or something else, may be there already.
  public static func create(
    on device: any BlockDevice, overwrites: Bool = false
  ) async throws(MirrorError) {
    _ = try Sidecar(device, shape: nil)
    if !overwrites { try await checkIsNew(device) }
    do throws(IOFailure) {
      try await device.writeZeroes(.zero..<length, mayUnmap: false)
      try await device.flush()
    } catch {
      throw .io(error)
    }
  }

  /// Refuses a device that holds a sidecar already, or something else.
  public static func checkIsNew(_ device: any BlockDevice) async throws(MirrorError) {
    guard try await MirrorSidecar(of: device).legCount == nil else {
      throw .state("'\(device.name)' holds a sidecar already")
    }
  }

  /// A new one is all zeros.
  private static func checkBlank(_ device: any BlockDevice) async throws(MirrorError) {
    do throws(IOFailure) {
      let pages = try PagePool.lend(holding: length)
      let buffer = pages.buffer.slice(.zero, length)
      try await device.read(.zero..<length, into: buffer)
      guard !buffer.isZero else { return }
    } catch {
      throw .io(error)
    }
    throw .state("'\(device.name)' holds no sidecar, and isn't zero as a new one would be")
  }
}
