import BlockIO

/// What went wrong with a leg; the lowest one is shown.
enum LegError: Int, Comparable, Sendable {
  /// It couldn't be flushed for the log.
  case flush
  /// A write, or a flush asked for, failed.
  case write
  /// It couldn't be brought into sync.
  case sync
  /// It couldn't be read.
  case read

  static func < (left: LegError, right: LegError) -> Bool { left.rawValue < right.rawValue }

  /// The letter in the status line.
  var letter: Character {
    switch self {
    case .flush: "F"
    case .write: "D"
    case .sync: "S"
    case .read: "R"
    }
  }
}

/// One copy of a mirror's data.
final class Leg {
  let device: any BlockDevice
  /// Where on the device the mirror begins.
  let offset: Sector
  private(set) var errors = Set<LegError>()
  /// Reads under way.
  var reads = 0
  /// What has been done with it.
  var statistics = LegStatistics()

  init(_ device: any BlockDevice, offset: Sector) {
    self.device = device
    self.offset = offset
  }

  /// Whether nothing has gone wrong with it.
  var isGood: Bool { errors.isEmpty }

  var letter: Character { errors.min()?.letter ?? "A" }

  /// Takes note of an error.
  ///
  /// - Returns: whether it is the first of its kind.
  func mark(_ error: LegError) -> Bool { errors.insert(error).inserted }

  func forgive() { errors = [] }

  /// Where sectors of the mirror are on the device.
  func sectors(of sectors: Range<Sector>) -> Range<Sector> { sectors.shifted(by: offset) }

  func region(of sectors: Range<Sector>) -> IORegion {
    IORegion(device, sector: offset + sectors.lowerBound, count: sectors.length)
  }

  /// Whether two legs share sectors, under whatever names.
  func overlaps(_ other: Leg, length: Sector) -> Bool {
    region(of: .zero..<length).overlaps(other.region(of: .zero..<length))
  }
}
