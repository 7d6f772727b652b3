import BlockIO
import Imaging
import Kcopyd
import Synchronization

/// A copy in one go, with all that is wanted of its content: cloned where that can be done, copied,
/// hashed on the way, made durable, read back.
struct ContentCopy {
  let engine: Engine
  let source: Source
  let destinations: Destinations
  let start: Sector
  let request: ContentRequest
  let options: WritingOptions
  let interruption: Interruption

  private var devices: [any BlockDevice] { destinations.devices }

  private func region(_ device: any BlockDevice) -> IORegion {
    IORegion(device, sector: start, count: source.region.count)
  }

  /// Does it.
  func run(_ title: String) async throws(Refusal) -> Report {
    let cloned = try await clone()
    var holes = RangeSet<Sector>()
    if cloned.count < devices.count {
      do throws(IOFailure) {
        holes = try await source.region.knownHoles()
      } catch {
        destinations.removeCreated()
        throw Refusal(error.description)
      }
    }
    if options.explain {
      Explanation(
        engine: engine, source: source, destinations: devices, cloned: cloned,
        holes: holes.sectorCount
      ).show()
    }
    let hash = request.hash.map {
      SourceHash($0, byteCount: source.byteCount, window: request.window, on: engine.loop)
    }
    var report = try await copy(title, holes: holes, cloned: cloned, hash)
    if !options.noSync {
      report.flushFailures.merge(destinations.syncFolders()) { first, _ in first }
    }
    report.content = ContentAccount(
      request: request, source: source.device.name, cloned: cloned, hash: hash)
    if let retries = request.verifyRetries {
      report.content.verified = try await verify(report, retries: retries, holes: holes)
    }
    report.content.allocated = destinations.allocated
    return report
  }

  private func copy(
    _ title: String, holes: RangeSet<Sector>, cloned: Set<Int>, _ hash: SourceHash?
  ) async throws(Refusal) -> Report {
    let content = request.content(
      holes: holes, blank: destinations.blank, count: devices.count, observer: hash)
    let regions = devices.indices.map { index in
      // What is cloned is there: a region of none is ignored.
      cloned.contains(index)
        ? IORegion(devices[index], sector: start, count: .zero) : region(devices[index])
    }
    let transfer = Transfer(
      engine: engine, devices: devices, byteCount: source.byteCount, options: options)
    return try await transfer.run(title, interruption: interruption) {
      (progress, notify) throws(KcopydError) in
      for index in cloned { progress.markPresent(source.region.count, destination: index) }
      return try engine.client.copy(
        from: source.region, to: regions, options: options.copyOptions, content: content,
        progress: progress, notify: notify)
    }
  }

  // MARK: Cloning

  /// Clones the source to every new file that can be one; the indices of these.
  private func clone() async throws(Refusal) -> Set<Int> {
    guard request.clone != .never else { return [] }
    var cloned: Set<Int> = []
    let blank = destinations.blank
    for index in devices.indices {
      guard let file = source.device as? FileDevice, blank.contains(index),
        let new = devices[index] as? FileDevice
      else {
        try insist("'\(devices[index].name)': only a file can be cloned, to a new one")
        continue
      }
      do throws(IOFailure) {
        try await new.clone(file)
        cloned.insert(index)
      } catch {
        try insist(error.description)
      }
    }
    return cloned
  }

  private func insist(_ reason: String) throws(Refusal) {
    guard request.clone == .always else { return }
    destinations.removeCreated()
    throw Refusal("--clone always: \(reason)")
  }

  // MARK: Verifying

  /// Reads every destination back; nil where the copy was interrupted.
  private func verify(
    _ report: Report, retries: Int, holes: RangeSet<Sector>
  ) async throws(Refusal) -> [VerifiedDestination]? {
    guard !interruption.hasCome else { return nil }
    var back: [any BlockDevice] = []
    for device in devices { back.append(try await openToReadBack(device)) }
    let verification = Verification(
      source: source.region, destinations: devices.map(region), readBack: back.map(region),
      written: devices.indices.map(report.result.written), holes: holes, retries: retries)
    let progress = CopyProgress(destinations: devices.count)
    let client = engine.client
    let task = Task(executorPreference: engine.loop) {
      () async -> Result<[VerifiedDestination], IOFailure> in
      do throws(IOFailure) {
        return .success(try await verification.run(with: client, progress: progress))
      } catch {
        return .failure(error)
      }
    }
    interruption.handle { task.cancel() }
    let display = ProgressDisplay(
      title: "verifying", byteCount: source.byteCount, names: devices.map(\.name),
      options: options)
    let shown = Task { await display.show(progress) }
    let result = await task.value
    shown.cancel()
    await shown.value
    do throws(IOFailure) {
      return try result.get()
    } catch {
      throw Refusal("copied, but not verified: \(error.description)")
    }
  }
}

extension ContentCopy {
  /// The same device once more, past the cache where that can be done from here; an export is read
  /// as its server serves it.
  private func openToReadBack(_ device: any BlockDevice) async throws(Refusal) -> any BlockDevice {
    guard let file = device as? FileDevice else { return device }
    await file.dropCache()
    return try openDevice(
      file.name, .init(isWritable: false, direct: .whenPossible, isExclusive: false),
      on: engine.loop)
  }
}

/// Shows the progress of a phase of its own.
struct ProgressDisplay {
  let title: String
  let byteCount: UInt64
  let names: [String]
  let options: WritingOptions

  /// Until the task is cancelled.
  func show(_ progress: CopyProgress) async {
    guard !options.engine.quiet, !options.engine.json || Output.isTerminal else { return }
    var view = ProgressView(title: title, byteCount: byteCount, names: names, makesDurable: false)
    var screen = ProgressScreen(isTerminal: Output.isTerminal)
    let clock = ContinuousClock()
    let begin = clock.now
    while (try? await Task.sleep(for: .milliseconds(100))) != nil {
      view.update(progress.snapshot, after: begin.duration(to: clock.now), isFlushing: false)
      screen.show(view)
    }
    screen.clear()
  }
}
