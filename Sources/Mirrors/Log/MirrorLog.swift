public import BlockIO
import SystemPackage

/// The disk log of a mirror, looked at or made without the mirror.
public struct MirrorLog: Sendable {
  /// The version of the format: 2, or 1.
  public let version: UInt32
  /// How many regions it was written for; nil in a log that a volume manager has made and no
  /// mirror has used yet: it is for as many as there are.
  public let regionCount: UInt64?
  private let bits: RegionBits

  /// Reads a log.
  ///
  /// - Parameters:
  ///   - device: the log device; only read.
  ///   - regionCount: how many regions to look at; nil: as many as the log was written for.
  /// - Throws: when it is no log, or of an unknown version, or shorter than its regions need.
  public init(
    of device: any BlockDevice, regionCount: UInt64? = nil
  ) async throws(MirrorError) {
    let header = try await Self.header(of: device)
    guard let header else { throw .noLog(device.name) }
    guard header.version == 1 || header.version == LogHeader.version else {
      throw .logVersion(name: device.name, version: header.version)
    }
    version = header.version
    self.regionCount = header.regionCount == LogHeader.anyRegionCount ? nil : header.regionCount
    guard let count = regionCount ?? self.regionCount else {
      throw .state(
        "'\(device.name)' doesn't say for how many regions it is: no mirror has used it yet;"
          + " give the length of the mirror and its region size")
    }
    guard count <= RegionSize.maximumCount else {
      throw .state("'\(device.name)' is for \(count) regions, more than there can be")
    }
    let geometry = LogGeometry(regionCount: count, block: device.limits.logicalBlock)
    guard geometry.length <= device.wholeSectorCount else {
      throw .logTooSmall(
        name: device.name, sectors: device.sectorCount, needed: geometry.length)
    }
    do throws(IOFailure) {
      let pages = try PagePool.lend(holding: geometry.length)
      let buffer = pages.buffer.slice(.zero, geometry.length)
      try await device.read(.zero..<geometry.length, into: buffer)
      var bits = geometry.bits(buffer)
      // Of regions behind those it was written for it says nothing.
      if let known = self.regionCount, known < count {
        bits.set(Region(known)..<Region(count), to: false)
      }
      self.bits = bits
    } catch {
      throw .io(error)
    }
  }

  /// Refuses a log that isn't for a mirror of `regionCount` regions: with another region size every
  /// bit of it would mean something else.
  public func checkFits(_ regionCount: UInt64, name: String) throws(MirrorError) {
    guard let known = self.regionCount, known != regionCount else { return }
    throw .state(
      "'\(name)' was written for \(known) regions, and the mirror has \(regionCount): is it its"
        + " log, and the region size right?")
  }

  /// How many regions were looked at.
  public var inspectedCount: UInt64 { bits.count }

  /// How many of them are clean: the same on all legs.
  public var cleanCount: UInt64 { bits.setCount }

  /// Whether a region is clean.
  public func isClean(_ region: Region) -> Bool { bits[region] }

  /// The first `limit` runs of regions that aren't clean.
  public func dirtyRuns(limit: Int = .max) -> [Range<Region>] {
    var runs: [Range<Region>] = []
    var next: Region = 0
    while runs.count < limit, let first = bits.firstClear(from: next) {
      var end = first.advanced(by: 1)
      while end.rawValue < bits.count, !bits[end] { end = end.advanced(by: 1) }
      runs.append(first..<end)
      next = end
    }
    return runs
  }

  /// The header; nil when there is something else.
  private static func header(of device: any BlockDevice) async throws(MirrorError) -> LogHeader? {
    let header = try await anyHeader(of: device)
    return header.magic == LogHeader.magic ? header : nil
  }

  /// What is in the place of the header.
  private static func anyHeader(
    of device: any BlockDevice
  ) async throws(MirrorError) -> LogHeader {
    let block = Sector(holding: UInt64(device.limits.logicalBlock))
    guard device.sectorCount >= block else {
      throw .logTooSmall(name: device.name, sectors: device.sectorCount, needed: block)
    }
    do throws(IOFailure) {
      let pages = try PagePool.lend(holding: block)
      let buffer = pages.buffer.slice(.zero, block)
      try await device.read(.zero..<block, into: buffer)
      return LogHeader(buffer)
    } catch {
      throw .io(error)
    }
  }

  /// How long a log device with blocks of so many bytes must be.
  public static func length(regionCount: UInt64, block: Int) -> Sector {
    LogGeometry(regionCount: regionCount, block: block).length
  }

  /// Makes a new log, durable when this returns.
  ///
  /// - Parameters:
  ///   - device: where.
  ///   - regionCount: for how many regions.
  ///   - isInSync: whether all legs count as the same.
  ///   - overwrites: whether a log, or something else, may be there already. Otherwise the first
  ///     four bytes must be zero.
  public static func create(
    on device: any BlockDevice, regionCount: UInt64, isInSync: Bool, overwrites: Bool = false
  ) async throws(MirrorError) {
    let log = try DiskLog(device, regionCount: regionCount)
    if !overwrites {
      let found = try await anyHeader(of: device)
      guard found.magic != LogHeader.magic else {
        throw .state("'\(device.name)' holds a mirror log already")
      }
      guard found.magic == 0 else {
        throw .state("'\(device.name)' holds something else: its first four bytes aren't zero")
      }
    }
    do throws(IOFailure) {
      try await log.writeAll(RegionBits(count: regionCount, repeating: isInSync))
      try await device.flush()
    } catch {
      throw .io(error)
    }
  }
}
