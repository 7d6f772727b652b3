public import BlockIO

/// Why a mirror was refused. Nothing has been written.
public enum MirrorError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The words of a table line are wrong.
  case arguments(String)
  /// The region size can't be used.
  case regionSize(String)
  /// The number of legs is wrong.
  case legCount(Int)
  /// Two legs, or a leg and the log, are one device and overlap.
  case sameDevice(String, String)
  /// A leg ends before the mirror does.
  case legTooSmall(name: String, sectors: Sector, needed: Sector)
  /// The log device is too small for the bits of all regions.
  case logTooSmall(name: String, sectors: Sector, needed: Sector)
  /// The device holds no log.
  case noLog(String)
  /// The log is of a version that isn't known.
  case logVersion(name: String, version: UInt32)
  /// A step came out of turn.
  case state(String)
  /// A device can't be read or written.
  case io(IOFailure)

  /// One line.
  public var description: String {
    switch self {
    case .arguments(let text), .regionSize(let text), .state(let text): text
    case .legCount(let count):
      "\(count) legs; \(MirrorParameters.legCount.lowerBound) to"
        + " \(MirrorParameters.legCount.upperBound) are possible"
    case .sameDevice(let one, let other): "'\(one)' and '\(other)' are the same device"
    case .legTooSmall(let name, let sectors, let needed):
      "'\(name)' is too small: it has \(sectors.rawValue) sectors, \(needed.rawValue) are needed"
    case .logTooSmall(let name, let sectors, let needed):
      "the log '\(name)' is too small: it has \(sectors.rawValue) sectors,"
        + " \(needed.rawValue) are needed"
    case .noLog(let name): "'\(name)' holds no mirror log: it doesn't begin with 'rRiM'"
    case .logVersion(let name, let version):
      "'\(name)' byte 4: version \(version) of the mirror log isn't known; 2 is"
    case .io(let failure): failure.description
    }
  }

  /// A region size that suits a mirror of that length.
  static func regionSize(
    _ sectors: Sector, for length: Sector
  ) throws(MirrorError) -> RegionSize {
    guard let size = RegionSize(sectors), sectors <= length else {
      throw .regionSize(
        "a region size of \(sectors.rawValue) sectors: it must be a power of two from 2 to the"
          + " length of the mirror (\(length.rawValue))")
    }
    guard size.count(in: length) <= RegionSize.maximumCount else {
      throw .regionSize(
        "a region size of \(sectors.rawValue) sectors makes \(size.count(in: length)) regions;"
          + " \(RegionSize.maximumCount) are possible")
    }
    return size
  }
}
