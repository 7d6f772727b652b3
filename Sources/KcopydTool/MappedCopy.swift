import BlockIO
import Foundation
import Imaging
import Kcopyd
import NBD
import SystemPackage

/// A copy with a map, or a rescue, as the command runs it: finds out where to go on, refuses what
/// doesn't belong together before anything is written, and runs the job with progress.
struct MappedCopy {
  let source: Source
  let paths: [String]
  let start: Sector
  let rescue: RescueOptions
  let request: ContentRequest
  let options: WritingOptions
  let engine: Engine
  let interruption: Interruption

  /// Where the files of a map are.
  private struct MapPlace {
    let path: String
    let folder: String
    let name: String

    /// Links are followed: what they point to is replaced, not they.
    init(_ path: String) {
      let url = URL(fileURLWithPath: path).resolvingSymlinksInPath()
      self.path = path
      folder = url.deletingLastPathComponent().path
      name = url.lastPathComponent
    }
  }

  /// Runs it to its end.
  func run() async throws(Refusal) -> ImagingReport {
    let jobOptions = try rescue.jobOptions(for: source, options)
    guard let map = rescue.map else {
      let destinations = try await openDestinations()
      let resumption = Resumption(byteCount: source.device.byteCount, targets: paths.count)
      return try await run(destinations, resumption, nil, jobOptions)
    }
    let place = MapPlace(map)
    try refuseToOverwrite(with: place)
    let lock = try refusing { () throws(MapRefusal) in try MapLock(place.name, in: place.folder) }
    let folder = SystemFolder(place.folder, on: engine.loop)
    let store = MapStore(place.name, in: folder, on: engine.loop)
    let report = try await run(store, jobOptions)
    // Up to here nobody else may have it.
    withExtendedLifetime(lock) {}
    return report
  }

  private func run(
    _ store: MapStore, _ jobOptions: ImagingJob.Options
  ) async throws(Refusal) -> ImagingReport {
    var record = ProgressRecord(
      source: sourceIdentity,
      region: .init(from: source.region.sector, to: start, count: source.region.count),
      destinations: [])
    let found = try await refusing { () async throws(MapRefusal) in try await store.load() }
    var targets: [Resumption.Target] = []
    for path in paths { targets.append(.init(name: path, identity: await identity(of: path))) }
    let resumption = try refusing { () throws(MapRefusal) in
      try Resumption(found, source: record.source, region: record.region, targets: targets)
    }
    for (path, durable) in zip(paths, resumption.durable)
    where !durable.isEmpty && !NBDURI.isMeant(by: path) {
      try lengthen(path)
    }
    let destinations = try await openDestinations()
    do throws(Refusal) {
      let regions = regions(of: destinations)
      try await refusing { () async throws(MapRefusal) in
        try await SourceSample.verify(resumption, source: source.region, targets: regions)
      }
      record.destinations =
        destinations.devices.map {
          .init(name: $0.name, identity: EndpointIdentity.of($0), durable: RangeSet())
        } + resumption.absent
      // The map must not speak of files whose names may be lost.
      if let failure = destinations.syncFolders().values.first {
        throw Refusal(failure.description)
      }
      return try await run(
        destinations, resumption,
        .init(store, record: record, comments: MapHeading().comments), jobOptions)
    } catch {
      for path in destinations.created { unlink(path) }
      throw error
    }
  }

  private func run(
    _ destinations: Destinations, _ resumption: Resumption, _ keeping: ImagingJob.Keeping?,
    _ jobOptions: ImagingJob.Options
  ) async throws(Refusal) -> ImagingReport {
    let holes = try await holes(destinations)
    if options.explain {
      Explanation(
        engine: engine, source: source, destinations: destinations.devices,
        holes: holes.sectorCount
      ).show()
    }
    var jobOptions = jobOptions
    let hash = request.makeHash(of: source, on: engine.loop)
    jobOptions.content = request.content(
      holes: holes, blank: destinations.blank, count: paths.count, observer: hash)
    let job: ImagingJob
    do throws(IOFailure) {
      job = try ImagingJob(
        from: source.region, to: regions(of: destinations), resuming: resumption, keeping: keeping,
        options: jobOptions, client: engine.client)
      try await job.begin()
    } catch {
      throw Refusal(
        keeping == nil ? error.description : "the map can't be written: \(error.description)")
    }
    interruption.handle { job.cancel() }
    let clock = ContinuousClock()
    let begin = clock.now
    let display = Task { await show(job, names: destinations.devices.map(\.name), since: begin) }
    var result = await job.run()
    display.cancel()
    await display.value
    var content = ContentAccount(
      request: request, source: source.device.name, cloned: [], hash: hash)
    if let retries = request.verifyRetries, result.ending == .finished {
      content.verified = try await readBack(destinations, result, holes, retries)
      result = await job.takeBack(content.absent(from: source.region.sector))
    }
    content.allocated = destinations.allocated
    var nameFailures: [Int: IOFailure] = [:]
    if keeping == nil, !options.noSync { nameFailures = destinations.syncFolders() }
    return ImagingReport(
      result: result, names: destinations.devices.map(\.name), nameFailures: nameFailures,
      map: rescue.map, sourceName: source.device.name,
      sourceByteCount: source.device.byteCount,
      isSynced: !options.noSync, wasRescue: rescue.rescue, duration: begin.duration(to: clock.now),
      wasInterrupted: interruption.hasCome, content: content)
  }

  private func readBack(
    _ destinations: Destinations, _ result: ImagingResult, _ holes: RangeSet<Sector>, _ retries: Int
  ) async throws(Refusal) -> [VerifiedDestination]? {
    let first = source.region.sector
    let written = result.destinations.map { destination in
      RangeSet(
        destination.written.ranges.map { $0.lowerBound - first..<$0.upperBound - first })
    }
    return try await ReadingBack(
      engine: engine, source: source, devices: destinations.devices, start: start,
      options: options, interruption: interruption
    ).run(written: written, holes: holes, retries: retries)
  }

  /// What of the source needn't be read. A source that fails must not fail here already: a rescue
  /// reads what it can.
  private func holes(_ destinations: Destinations) async throws(Refusal) -> RangeSet<Sector> {
    do throws(IOFailure) {
      return try await source.region.knownHoles()
    } catch {
      if rescue.rescue { return RangeSet() }
      destinations.removeCreated()
      throw Refusal(error.description)
    }
  }

  // MARK: Endpoints

  private func openDestinations() async throws(Refusal) -> Destinations {
    try await Destinations(paths, of: source, at: start, options: options, on: engine)
  }

  /// Other programs let a file grow while they copy: what the map is of may be too short.
  private func lengthen(_ path: String) throws(Refusal) {
    let wanted = start.bytes + source.byteCount
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
      UInt64(max(0, status.st_size)) < wanted
    else { return }
    guard truncate(path, off_t(wanted)) == 0 else {
      throw Refusal("cannot lengthen '\(path)': \(Errno(rawValue: errno))")
    }
  }

  private func regions(of destinations: Destinations) -> [IORegion] {
    destinations.devices.map { IORegion($0, sector: start, count: source.region.count) }
  }

  private var sourceIdentity: ProgressRecord.Source {
    let path = source.files.first?.name ?? source.device.name
    var status = stat()
    let isRegular = stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    let modified = Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec)
    return .init(
      name: source.device.name, bytes: source.device.byteCount,
      identity: EndpointIdentity.of(source.device), modified: isRegular ? modified : nil)
  }

  /// What a destination is, if it is there and can be looked at: what is wrong with it otherwise is
  /// said when it is opened for writing.
  private func identity(of path: String) async -> String? {
    if let export = try? await openExport(path, writable: false) {
      return EndpointIdentity.of(export)
    }
    let how = FileDevice.Options(isWritable: false, direct: .off, isExclusive: false)
    return (try? FileDevice.open(path, how, on: engine.loop)).map(EndpointIdentity.of)
  }

  /// A map in the place of the source, or of a destination, would be the end of them.
  private func refuseToOverwrite(with place: MapPlace) throws(Refusal) {
    let files = [place.name, "\(place.name).kcopyd"].map { "\(place.folder)/\($0)" }
    for path in paths + source.files.map(\.name) {
      let resolved = URL(fileURLWithPath: path).resolvingSymlinksInPath().path
      if files.contains(where: { isSameFile($0, path) || $0 == resolved }) {
        throw Refusal("--map: '\(path)' is also to be copied")
      }
    }
  }

  private func refusing<R>(_ body: () throws(MapRefusal) -> R) throws(Refusal) -> R {
    do throws(MapRefusal) {
      return try body()
    } catch {
      throw Refusal(error.description)
    }
  }

  private func refusing<R>(
    _ body: () async throws(MapRefusal) -> R
  ) async throws(Refusal) -> R {
    do throws(MapRefusal) {
      return try await body()
    } catch {
      throw Refusal(error.description)
    }
  }

  // MARK: Display

  private func show(
    _ job: ImagingJob, names: [String], since begin: ContinuousClock.Instant
  ) async {
    guard !options.engine.quiet, !options.engine.json || Output.isTerminal else { return }
    var view = RescueView(
      names: names, isRescue: rescue.rescue, byteCount: source.region.count.bytes)
    var screen = ProgressScreen(isTerminal: Output.isTerminal)
    let clock = ContinuousClock()
    // Off the loop: a terminal that doesn't read must not hold up a copy.
    while (try? await Task.sleep(for: .milliseconds(100))) != nil {
      view.update(await job.snapshot, after: begin.duration(to: clock.now))
      screen.show(view)
    }
    screen.clear()
  }
}

/// The comments at the head of a mapfile, as ddrescue has them.
private struct MapHeading {
  private let start = Date()

  func comments() -> [String] {
    let format = Date.ISO8601FormatStyle(dateSeparator: .dash, dateTimeSeparator: .space)
    return [
      " Mapfile. Created by kcopyd \(kcopydVersion)",
      " Command line: \(CommandLine.arguments.joined(separator: " "))",
      " Start time:   \(start.formatted(format))",
      " Current time: \(Date().formatted(format))",
    ]
  }
}
