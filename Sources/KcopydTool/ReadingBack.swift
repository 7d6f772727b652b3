import BlockIO
import Imaging
import Kcopyd

/// Reading destinations back after a copy, with progress.
struct ReadingBack {
  let engine: Engine
  let source: Source
  let devices: [any BlockDevice]
  /// Where the copy starts on them.
  let start: Sector
  let options: WritingOptions
  let interruption: Interruption

  /// Compares, and writes again what differs; nil where the copy was interrupted.
  ///
  /// - Parameters:
  ///   - written: what each destination is said to hold, counted from the start of the copy.
  ///   - holes: what of the source isn't read.
  func run(
    written: [RangeSet<Sector>], holes: RangeSet<Sector>, retries: Int
  ) async throws(Refusal) -> [VerifiedDestination]? {
    guard !interruption.hasCome else { return nil }
    var back: [any BlockDevice] = []
    for device in devices { back.append(try await openToReadBack(device)) }
    let verification = Verification(
      source: source.region, destinations: devices.map(region), readBack: back.map(region),
      written: written, holes: holes, retries: retries)
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

  private func region(_ device: any BlockDevice) -> IORegion {
    IORegion(device, sector: start, count: source.region.count)
  }

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
