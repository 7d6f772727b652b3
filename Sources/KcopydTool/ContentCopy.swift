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
    let hash = request.makeHash(of: source, on: engine.loop)
    var report = try await copy(title, holes: holes, cloned: cloned, hash)
    if !options.noSync {
      report.flushFailures.merge(destinations.syncFolders()) { first, _ in first }
    }
    report.content = ContentAccount(
      request: request, source: source.device.name, cloned: cloned, hash: hash)
    if let retries = request.verifyRetries {
      report.content.verified = try await ReadingBack(
        engine: engine, source: source, devices: devices, start: start, options: options,
        interruption: interruption
      ).run(written: devices.indices.map(report.result.written), holes: holes, retries: retries)
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
}
