import BlockIO
@testable import BlockIOTesting
import Kcopyd

/// Everything one simulated run does: disks with their faults, clients, and jobs. Drawn from a
/// seed by ``SimulationPlanner``.
///
/// Jobs are grouped in lanes. The jobs of a lane run one after the other, lanes run side by side.
/// Each lane has an area of its own on every disk, where all its destinations lie; sources lie
/// there or in the area shared by all, which nobody writes. So what a job has to leave behind is
/// known exactly, whatever the others do meanwhile.
struct SimulationPlan: Sendable {
  var disks: [Disk] = []
  var clients: [Client] = []
  var throttles: [ThrottleChange] = []
  var lanes: [Lane] = []
  var prepared: [Prepared] = []

  struct Disk: Sendable {
    let seed: UInt64
    let sectorCount: Sector
    let limits: DeviceLimits
    /// Read by everybody, written by nobody.
    let shared: Range<Sector>
    let faults: DiskFaults
  }

  struct Client: Sendable {
    let subJob: Sector
    let pages: Int
    /// Clients of the same number share it.
    let throttle: Int?
  }

  /// A throttle, and what it is changed to after a while.
  struct ThrottleChange: Sendable {
    let percent: Int
    let bytesPerSecond: UInt64?
    let after: Duration
    let laterPercent: Int
    let laterBytesPerSecond: UInt64?
  }

  struct Lane: Sendable {
    /// By disk.
    let areas: [Range<Sector>]
    var jobs: [Job] = []
  }

  /// A region by the number of its disk.
  struct Place: Sendable {
    let disk: Int
    let sector: Sector
    let count: Sector

    var sectors: Range<Sector> { sector..<sector + count }
  }

  enum Form: Sendable {
    /// `await client.copy(…)`.
    case awaited
    /// With a notification.
    case notified
    /// With a notification, and started from within that of the job before.
    case chained
  }

  struct Job: Sendable {
    let client: Int
    let source: Place?
    let destinations: [Place]
    let count: Sector
    let options: CopyOptions
    let form: Form
    let delay: Duration
    /// From the start of the job.
    let cancelAfter: Duration?

    /// The indices of destinations that aren't ignored.
    var active: [Int] {
      count == .zero ? [] : destinations.indices.filter { destinations[$0].count > .zero }
    }
  }

  /// A prepared callback.
  struct Prepared: Sendable {
    let client: Int
    let delay: Duration
    let readError: Bool
    let writeErrors: UInt64
  }
}

/// Which sectors of a disk go bad.
struct DiskFaults: Sendable {
  /// Reads of these always fail.
  private(set) var reads = RangeSet<Sector>()
  /// Reads of these may fail some of the time.
  private(set) var passingReads = RangeSet<Sector>()
  /// As the disk takes it; also knows the bad writes, which the disk's log tells of.
  private(set) var plan = FaultPlan()

  mutating func failReads(_ sectors: Range<Sector>) {
    reads.insert(sectors)
    plan.fail(.read, sectors)
  }

  mutating func failReads(_ sectors: Range<Sector>, times: Int, after skip: Int) {
    passingReads.insert(sectors)
    plan.fail(.read, sectors, times: times, after: skip)
  }

  mutating func failWrites(_ sectors: Range<Sector>, times: Int?, after skip: Int) {
    plan.fail(.write, sectors, times: times, after: skip)
    plan.fail(.writeZeroes, sectors, times: times, after: skip)
  }
}
