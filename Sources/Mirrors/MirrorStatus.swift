public import BlockIO

/// How a mirror is doing.
public struct MirrorStatus: Hashable, Sendable {
  /// One leg.
  public struct Leg: Hashable, Sendable {
    /// The device's name.
    public let name: String
    /// `A` alive, `F` a flush for the log failed, `D` a write failed, `S` it couldn't be brought
    /// into sync, `R` a read failed; the first of these that applies.
    public let letter: Character
  }

  /// The log.
  public struct Log: Hashable, Sendable {
    /// The device's name; nil: in memory.
    public let name: String?
    /// `A` alive, `D` failed, `F` it couldn't be flushed.
    public let letter: Character
  }

  /// The legs, in the order of the table.
  public var legs: [Leg]
  /// Which leg is trusted when they may differ.
  public var defaultLeg: Int
  /// Regions in sync, and all.
  public var regionsInSync: UInt64
  /// How many regions there are.
  public var regionCount: UInt64
  /// The log.
  public var log: Log
  /// Writes held until the mirror gets another table.
  public var held: Int
  /// Whether regions are being copied.
  public var isRecovering: Bool

  /// The status line of dmsetup from behind the target's name on, letter for letter.
  ///
  /// - Parameter label: what a device is called in it: `major:minor` in the kernel.
  public func line(label: (String) -> String = { $0 }) -> String {
    let names = legs.map { label($0.name) }.joined(separator: " ")
    let letters = String(legs.map(\.letter))
    let log = log.name.map { "3 disk \(label($0)) \(self.log.letter)" } ?? "1 core"
    return "\(legs.count) \(names) \(regionsInSync)/\(regionCount) 1 \(letters) \(log)"
  }
}

/// What happened to a mirror.
public enum MirrorEvent: Hashable, Sendable {
  /// The first error of a kind on a leg, by its number. Signalled with `handle_errors`.
  case legFailed(Int, IOFailure)
  /// A read error was mended from another leg.
  case repaired(Int, Range<Sector>)
  /// All regions are in sync.
  case inSync
  /// The log can't be written or read; why.
  case logFailed(String)
  /// The sidecar can't be written; why.
  case sidecarFailed(String)
}
