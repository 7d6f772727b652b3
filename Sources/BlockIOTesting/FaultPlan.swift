import BlockIO
import SystemPackage

/// What goes wrong on a ``SimulatedDisk``.
///
/// A request that meets a failing sector is done up to there and fails from there on, with an
/// ``IOFailure`` that names the failing sector up to the end of the request.
public struct FaultPlan: Sendable {
  /// What a lying disk says is done, and isn't.
  public enum Lie: Sendable {
    /// A byte of the sector is another one than was written.
    case corruptRead
    /// The sector keeps what it had.
    case lostWrite
  }

  private struct Fault: Sendable {
    let operation: IOFailure.Operation
    /// Sectors of any position for operations that have none.
    let sectors: Range<Sector>
    let errno: Errno
    /// How many requests go well before.
    var skip: Int
    /// How many fail; nil: all.
    var times: Int?
  }

  private var faults: [Fault] = []
  private var delays: [(sectors: Range<Sector>, duration: Duration)] = []
  private var lies: [(lie: Lie, sectors: Range<Sector>)] = []

  /// Whether flushes end well and make nothing durable.
  public var ignoresFlushes = false

  /// Nothing goes wrong.
  public init() {}

  // MARK: Planning

  /// Lets operations on `sectors` fail: all that touch one of them, or the first `times` of these
  /// after `skip` of them have gone well. `operation` is `read`, `write`, `writeZeroes` or
  /// `discard`.
  public mutating func fail(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>, times: Int? = nil,
    after skip: Int = 0,
    errno: Errno = .ioError
  ) {
    faults.append(
      Fault(operation: operation, sectors: sectors, errno: errno, skip: skip, times: times))
  }

  /// Lets flushes fail: all, or the first `times` after `skip` that have gone well.
  public mutating func failFlushes(
    times: Int? = nil, after skip: Int = 0, errno: Errno = .ioError
  ) {
    fail(.flush, Self.everywhere, times: times, after: skip, errno: errno)
  }

  /// Lets the disk refuse to become larger.
  public mutating func failGrowing(errno: Errno = .noSpace) {
    fail(.grow, Self.everywhere, errno: errno)
  }

  /// Lets requests that touch `sectors` take that much longer.
  public mutating func slowDown(_ sectors: Range<Sector>, by duration: Duration) {
    delays.append((sectors, duration))
  }

  /// Lets the disk lie about `sectors`: for tests of the tests.
  public mutating func lie(_ lie: Lie, _ sectors: Range<Sector>) { lies.append((lie, sectors)) }

  // MARK: Asking

  private static let everywhere = Sector(0)..<Sector(.max)

  /// The first sector of a request at which it fails, and why. Counts the request.
  mutating func failure(
    of operation: IOFailure.Operation, _ sectors: Range<Sector>
  ) -> (sector: Sector, errno: Errno)? {
    var first: (sector: Sector, errno: Errno)?
    for index in faults.indices where faults[index].operation == operation {
      let fault = faults[index]
      let hasNoSectors = operation == .flush || operation == .grow
      let hit = hasNoSectors ? fault.sectors : fault.sectors.clamped(to: sectors)
      guard !hit.isEmpty else { continue }
      guard fault.skip == 0 else {
        faults[index].skip -= 1
        continue
      }
      if let times = fault.times {
        guard times > 0 else { continue }
        faults[index].times = times - 1
      }
      if hit.lowerBound < first?.sector ?? Sector(.max) { first = (hit.lowerBound, fault.errno) }
    }
    return first
  }

  /// How much longer a request takes.
  func delay(of sectors: Range<Sector>) -> Duration {
    delays.reduce(.zero) { $1.sectors.overlaps(sectors) ? max($0, $1.duration) : $0 }
  }

  /// The parts of `sectors` about which the disk lies like that.
  func lies(_ lie: Lie, about sectors: Range<Sector>) -> [Range<Sector>] {
    lies.compactMap { $0.lie == lie ? $0.sectors.clamped(to: sectors) : nil }
      .filter { !$0.isEmpty }
  }
}
