import BlockIO
@testable import BlockIOTesting
import Kcopyd
import Synchronization

/// Looks at a job from its start to its end.
final class JobWitness: Sendable {
  let progress: CopyProgress
  private let world: SimulationWorld
  private let lane: Int
  private let index: Int
  private let before: [[UInt8]]
  private let source: [UInt8]
  /// By disk, how many requests there were before.
  private let logStarts: [Int]
  private let cancellation = Mutex<LoopInstant?>(nil)

  init(world: SimulationWorld, lane: Int, index: Int) {
    self.world = world
    self.lane = lane
    self.index = index
    let plan = world.plan.lanes[lane]
    let job = plan.jobs[index]
    progress = CopyProgress(destinations: job.destinations.count)
    before = zip(world.disks, plan.areas).map { $0.contents($1) }
    source =
      job.source.map { place in
        let disk = world.disks[place.disk]
        return disk.contents(place.sectors.clamped(to: .zero..<disk.sectorCount))
      } ?? []
    logStarts = world.disks.map { $0.log.count }
  }

  func noteCancellation() {
    let now = world.loop.now
    cancellation.withLock { $0 = now }
  }

  func check(_ result: CopyResult) throws {
    let plan = world.plan.lanes[lane]
    let evidence = JobEvidence(
      plan: world.plan, lane: lane, job: plan.jobs[index], active: plan.jobs[index].active,
      result: world.sabotage.result(result), progress: progress.snapshot, source: source,
      before: before,
      after: zip(world.disks, plan.areas).map { $0.contents($1) },
      logs: zip(world.disks, logStarts).map { Array($0.log.dropFirst($1)) },
      cancellation: cancellation.withLock { $0 })
    do {
      try evidence.check()
    } catch {
      let job = plan.jobs[index]
      let what = "\(job.source == nil ? "zeroing" : "copying") \(job.count.rawValue) sectors"
      throw CheckFailure("lane \(lane), job \(index), \(what): \(error)")
    }
  }
}

/// What a job was to do, what it says it did, and what the disks have to say about it.
struct JobEvidence {
  let plan: SimulationPlan
  let lane: Int
  let job: SimulationPlan.Job
  /// The indices of destinations that aren't ignored.
  let active: [Int]
  let result: CopyResult
  let progress: CopyProgress.Snapshot
  /// What the source held, as far as it lies on the disk.
  let source: [UInt8]
  /// By disk, what the lane's area held and holds.
  let before: [[UInt8]]
  let after: [[UInt8]]
  /// By disk, the requests of everyone meanwhile.
  let logs: [[LoggedRequest]]
  let cancellation: LoopInstant?

  var client: SimulationPlan.Client { plan.clients[job.client] }
  var areas: [Range<Sector>] { plan.lanes[lane].areas }

  var isSequential: Bool {
    job.options.contains(.sequentialWrites)
      || active.contains { plan.disks[job.destinations[$0].disk].limits.isZoned }
  }

  var ignoresErrors: Bool { job.options.contains(.ignoreErrors) && !isSequential }
  var dropsDestinations: Bool { job.options.contains(.dropFailedDestinations) }
  var isThrottled: Bool { client.throttle != nil }

  var zeroesByCommand: Bool {
    job.source == nil
      && active.allSatisfy { plan.disks[job.destinations[$0].disk].limits.supportsWriteZeroes }
  }

  var overlaps: Bool {
    guard let source = job.source else { return false }
    return active.contains {
      let destination = job.destinations[$0]
      return destination.disk == source.disk && destination.sectors.overlaps(source.sectors)
    }
  }

  /// Whether reads of the source's sectors are this job's only.
  var ownsSource: Bool {
    job.source.map { $0.sector >= areas[$0.disk].lowerBound } ?? false
  }

  /// The segments in ascending order, counted from the start of the job.
  var segments: [Range<Sector>] {
    let size = zeroesByCommand ? Sector(holding: 16 << 20) : client.subJob
    var segments: [Range<Sector>] = []
    var start = Sector.zero
    while start < job.count {
      let end = min(start + size, job.count)
      segments.append(start..<end)
      start = end
    }
    return segments
  }

  /// The sectors of the job that lie on the disk of `place`.
  func onDisk(_ place: SimulationPlan.Place) -> Range<Sector> {
    let size = plan.disks[place.disk].sectorCount
    return .zero..<(place.sector >= size ? .zero : min(place.count, size - place.sector))
  }
}

/// The requests of a job, found in the logs of the disks.
struct JobRequests {
  /// By destination and segment; nil when it wasn't tried.
  var writes: [[LoggedRequest?]]
  /// By segment: the first read of the whole of it. Only of a source of the lane's own.
  var reads: [LoggedRequest?]

  private struct Start: Hashable {
    let disk: Int
    let sector: Sector
  }

  /// Finds them, and makes sure that each is a segment, and has ended.
  init(_ evidence: JobEvidence, _ segments: [Range<Sector>]) throws {
    let job = evidence.job
    writes = job.destinations.map { _ in Array(repeating: nil, count: segments.count) }
    reads = Array(repeating: nil, count: segments.count)
    var targets: [Start: (destination: Int, segment: Int)] = [:]
    var sources: [Sector: Int] = [:]
    for (number, segment) in segments.enumerated() {
      for index in evidence.active {
        let place = job.destinations[index]
        targets[Start(disk: place.disk, sector: place.sector + segment.lowerBound)] =
          (index, number)
      }
      if let source = job.source { sources[source.sector + segment.lowerBound] = number }
    }
    for (disk, log) in evidence.logs.enumerated() {
      for request in log {
        guard let sectors = request.sectors, sectors.overlaps(evidence.areas[disk]) else {
          continue
        }
        try ensure(request.end != nil, "notified before this had ended: \(request)")
        if request.operation == .read {
          guard evidence.ownsSource, disk == job.source?.disk else {
            throw CheckFailure("not to be read: \(request)")
          }
          try noteRead(request, sectors, sources[sectors.lowerBound], segments, evidence)
        } else {
          guard let target = targets[Start(disk: disk, sector: sectors.lowerBound)],
            segments[target.segment].length == sectors.length,
            request.operation == (evidence.zeroesByCommand ? .writeZeroes : .write)
          else { throw CheckFailure("not to be written: \(request)") }
          try ensure(
            writes[target.destination][target.segment] == nil, "written twice: \(request)")
          writes[target.destination][target.segment] = request
        }
      }
    }
  }

  private mutating func noteRead(
    _ request: LoggedRequest, _ sectors: Range<Sector>, _ number: Int?,
    _ segments: [Range<Sector>], _ evidence: JobEvidence
  ) throws {
    if let number, reads[number] == nil, segments[number].length == sectors.length {
      reads[number] = request
    } else {
      // Smaller pieces, to find out what can be read at all.
      try ensure(evidence.ignoresErrors, "not to be read like that: \(request)")
    }
  }
}
