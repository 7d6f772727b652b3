public import SystemPackage

/// Why an operation on a device failed: what was attempted, where, and the reason.
public struct IOFailure: Error, Hashable, Sendable, CustomStringConvertible {
  /// What was attempted.
  public enum Operation: String, Sendable {
    case open
    case read
    case write
    case writeZeroes = "zero"
    case discard
    case flush
    case blockStatus = "ask for the extents of"
    case grow
    case clone
    case reservePages = "reserve pages for"
    case startLoop = "start an I/O loop on"
  }

  /// What was attempted.
  public let operation: Operation
  /// The device, as the user named it.
  public let device: String
  /// The sectors that failed; nil where the operation has no place.
  public let sectors: Range<Sector>?
  /// The reason as the operating system's number.
  public let errno: Errno
  /// The reason in words, where they say more than the number.
  public let detail: String?

  /// A failure.
  public init(
    _ operation: Operation, _ device: String, _ sectors: Range<Sector>? = nil, errno: Errno,
    detail: String? = nil
  ) {
    self.operation = operation
    self.device = device
    self.sectors = sectors
    self.errno = errno
    self.detail = detail
  }

  /// The reason alone, in words.
  public var reason: String { detail ?? errno.description }

  /// One line: what, where, why.
  public var description: String {
    let place = sectors.map { " \($0.label)" } ?? ""
    return "cannot \(operation.rawValue) '\(device)'\(place): \(reason)"
  }

  /// The failure of a request for sectors that the device doesn't have.
  public static func beyondEnd(
    _ operation: Operation, _ device: String, _ sectors: Range<Sector>, sectorCount: Sector
  ) -> IOFailure {
    IOFailure(
      operation, device, sectors, errno: .ioError,
      detail: "beyond the end of the device (\(sectorCount.rawValue) sectors)")
  }

  /// The same failure with only the part of it that lies in `sectors`.
  public func at(_ sectors: Range<Sector>) -> IOFailure {
    IOFailure(operation, device, sectors, errno: errno, detail: detail)
  }
}
