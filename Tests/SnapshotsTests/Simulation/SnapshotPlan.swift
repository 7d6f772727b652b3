import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots

/// Everything one simulated run does with an origin and its snapshots. Drawn from a seed by
/// ``SnapshotPlanner``.
///
/// A run has phases. Each opens everything anew, does I/O in several lanes side by side while
/// snapshots come and go, and ends with a loss of power or without one. Lanes write only to
/// sectors of their own – the same on all devices, not in step with chunks – and read everywhere;
/// so what each sector may hold is known, while lanes get in each other's way within chunks.
struct SnapshotPlan: Sendable {
  var originCount = Sector(256)
  var originSeed: UInt64 = 0
  var originLimits = SimulatedDisk.allCapabilities
  /// What the origin holds no data of at the beginning: zeros, and its disk knows.
  var originHole = Sector.zero..<Sector.zero
  /// What requests are made of, like those of any client: the largest logical block of all disks.
  var unit = Sector(1)
  /// How much is copied in one go.
  var subJob = Sector(8)
  /// How many exceptions are merged at once.
  var mergeStep = 1024
  var snapshots: [Snapshot] = []
  var phases: [Phase] = []

  struct Snapshot: Sendable {
    var parameters: SnapshotParameters
    var count: Sector
    var cowCount: Sector
    var seed: UInt64
    var limits: DeviceLimits

    var chunk: Sector { parameters.chunkSize?.sectors ?? 32 }

    /// Whether its COW device, as large as it may become, can be too small for all chunks.
    var canRunFull: Bool {
      let perArea = parameters.store.isPersistent ? chunk.bytes / 16 : .max / 2
      let chunks = (count.rawValue + chunk.rawValue - 1) / chunk.rawValue
      let metadata = parameters.store.isPersistent ? 1 + (chunks + perArea) / perArea : 0
      return max(cowCount, parameters.growthLimit ?? .zero) < chunk * (chunks + metadata)
    }
  }

  struct Phase: Sendable {
    var lanes: [[Step]] = []
    /// By snapshot.
    var lives: [[Change]] = []
    /// From the beginning of its I/O.
    var crashAfter: Duration?
    var originFaults = FaultPlan()
    var cowFaults: [FaultPlan] = []
    /// The snapshot that is merged from the beginning on.
    var merge: Int?
  }

  struct Step: Sendable {
    var delay: Duration
    var operation: Operation
  }

  /// What a lane does. The device is 0 for the origin, a snapshot's number plus 1 for the others.
  enum Operation: Sendable {
    case write(Int, Range<Sector>, isDurable: Bool)
    case read(Int, Range<Sector>)
    case flush(Int)
    case discard(Int, Range<Sector>)
    /// Asks what is known of the content, so many extents at a time.
    case status(Int, Range<Sector>, limit: Int)
  }

  /// What happens to a snapshot while lanes are busy.
  struct Change: Sendable {
    enum Kind: Sendable {
      /// It is made, and has its point in time.
      case add
      /// It is suspended, and resumed after a while.
      case pause(Duration)
      /// Another snapshot takes its store over.
      case handOver
      /// A merge takes its store over.
      case merge
      case remove
      /// Someone makes the COW device that large.
      case enlarge(Sector)
    }

    var delay: Duration
    var kind: Kind
  }

  /// How many chunks there are.
  enum Size: Sendable {
    /// Few.
    case small
    /// So many that their exceptions take several blocks of an area: commits can be torn.
    case medium
    /// Several areas.
    case large
  }

  /// What of a plan a test wants to see.
  struct Bounds: Sendable {
    var hasFaults = true
    var hasCrashes = true
    var runsFull = true
    /// Only stores that survive, with room for everything.
    var isPersistent = false
    var merges: Bool?
    var size: Size?
    var phases: Int?
    var snapshots: Int?
    var steps: UInt64 = 10

    static let everything = Bounds()
  }
}
