import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors

/// Everything one simulated run does with a mirror. Drawn from a seed by ``MirrorPlanner``.
///
/// A run has phases. Each makes the mirror anew, does I/O in several lanes side by side while legs
/// fail and come back, and ends with a loss of power or without one. Lanes write only to sectors of
/// their own – not in step with regions – and read everywhere.
///
/// Left out without a sidecar, because the format can't tell which leg has missed something, and
/// leg 0 is trusted after a loss of power or when a mirror is made anew: errors of leg 0 – other
/// than those that recovery makes good before the phase ends – and so before a loss of power, and
/// with the kernel's conduct, which trusts it always. Left out, too: without `handle_errors`, a log that fails – that is
/// ignored then – together with legs that fail, or a loss of power.
struct MirrorPlan: Sendable {
  var count = Sector(64)
  var seed: UInt64 = 0
  var parameters: MirrorParameters
  /// Where the mirror begins on each leg.
  var offsets: [Sector] = []
  var legLimits: [DeviceLimits] = []
  /// Legs that do some writes on the spot.
  var quickLegs = Set<Int>()
  /// nil: the log is in memory.
  var logLimits: DeviceLimits?
  /// nil: nothing keeps over a restart which leg is right.
  var sidecarLimits: DeviceLimits?
  var start = Start.different
  var phases: [Phase] = []

  /// How it begins.
  enum Start: Sendable {
    /// Legs have different contents, and there is no log.
    case different
    /// Legs have the same contents, and the log, if there is one, says so.
    case same
  }

  struct Phase: Sendable {
    var lanes: [[Step]] = []
    var changes: [Change] = []
    /// From the beginning of its I/O.
    var crashAfter: Duration?
    var legFaults: [FaultPlan] = []
    var logFaults = FaultPlan()
  }

  struct Step: Sendable {
    var delay: Duration
    var operation: Operation
  }

  enum Operation: Sendable {
    case write(Range<Sector>, isDurable: Bool)
    case read(Range<Sector>)
    case flush
    case discard(Range<Sector>)
  }

  /// What happens to the mirror while lanes are busy.
  struct Change: Sendable {
    enum Kind: Sendable {
      /// It is suspended, and resumed after a while.
      case pause(Duration, requeuing: Bool)
      /// Nothing fails any more.
      case heal
      /// Someone wants to know how it is.
      case status
      /// Someone compares the legs.
      case compare
    }

    var delay: Duration
    var kind: Kind
  }

  /// What of a plan a test wants to see.
  struct Bounds: Sendable {
    var hasFaults = true
    var hasCrashes = true
    /// The test itself takes the power away, at any moment.
    var isCutOff = false
    var hasDisk: Bool?
    var hasSidecar: Bool?
    var start: Start?
    var phases: Int?
    var legs: Int?
    /// The most of them.
    var regions: UInt64 = 8
    var steps: UInt64 = 6

    static let everything = Bounds()
  }
}
