public import BlockIO
import Kcopyd
import Mirrors
import Synchronization
import SystemPackage

/// `mirror LOG #args arg… #legs DEVICE START… [#features feature… [#options option…]]`.
public final class MirrorTarget: Target {
  public let sectors: Range<Sector>
  private let line: MirrorLine
  private let device: MirrorDevice
  private let deviceName: String
  private let isSuspending = Atomic<Bool>(false)

  init(_ context: TargetContext, _ line: MirrorLine, _ device: MirrorDevice) {
    sectors = context.sectors
    deviceName = context.deviceName
    self.line = line
    self.device = device
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "mirror"
    public let version = "1.15.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      let line = try await MirrorLine(context)
      let onEvent = context.onEvent
      do throws(MirrorError) {
        let device = try MirrorDevice(
          legs: line.legs.map { MirrorLeg($0.opened.device, offset: $0.start) },
          log: line.log?.device, sidecar: line.options.sidecar?.device,
          sectorCount: context.sectors.length, parameters: line.parameters,
          name: context.deviceName, throttle: context.services.resyncThrottle ?? Throttle(),
          on: context.loop
        ) { event in
          onEvent(TargetEvent(event))
        }
        return MirrorTarget(context, line, device)
      } catch { throw context.refused(error.description, context.line.words) }
    }
  }

  public var limits: DeviceLimits? { device.limits }

  private func below(_ sectors: Range<Sector>) -> Range<Sector> {
    let start = self.sectors.lowerBound
    return sectors.lowerBound - start..<sectors.upperBound - start
  }

  /// A request that comes to the mirror when that has been suspended already is done again later.
  private func failed(_ failure: IOFailure) -> IOFailure {
    if failure.isPushedBack { return failure }
    if failure.isMirrorNotResumed, isSuspending.load(ordering: .relaxed) {
      return .pushedBack(deviceName)
    }
    return failure.moved(to: failure.sectors?.shifted(by: sectors.lowerBound))
  }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    do { try await device.read(below(sectors), into: buffer) } catch { throw failed(error) }
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    do {
      try await device.write(below(sectors), from: buffer, options: options)
    } catch { throw failed(error) }
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    do {
      try await device.writeZeroes(below(sectors), mayUnmap: mayUnmap)
    } catch { throw failed(error) }
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    do { try await device.discard(below(sectors)) } catch { throw failed(error) }
  }

  public func flush() async throws(IOFailure) {
    do { try await device.flush() } catch { throw failed(error) }
  }

  public func presuspend(isNoFlush: Bool) async {
    isSuspending.store(true, ordering: .relaxed)
    await device.suspend(requeuing: isNoFlush)
  }

  public func preresume() async throws(DeviceMapperError) {
    // These are read now.
    try line.log?.requireRunning()
    try line.options.sidecar?.requireRunning()
    try await SuspendedPatience.limited { () async throws(DeviceMapperError) in
      do throws(MirrorError) { try await device.resume() } catch {
        throw DeviceMapperError(.state, error.description)
      }
    }
    isSuspending.store(false, ordering: .relaxed)
  }

  public var figures: TargetFigures? {
    get async {
      let legs = zip(line.legs, await device.legStatistics).map {
        (name: $0.opened.word.text, statistics: $1)
      }
      return .mirror(await device.status, legs: legs)
    }
  }

  public func status(_ labels: DeviceLabels) async -> String { await line.status(device, labels) }
  public func table(_ labels: DeviceLabels) async -> String { line.table(labels) }
}

extension TargetEvent {
  fileprivate init(_ event: MirrorEvent) {
    switch event {
    case .legFailed(let leg, let failure):
      self.init("leg \(leg) has failed: \(failure)", isTrouble: true)
    case .inSync: self.init("all regions are in sync")
    case .logFailed(let reason):
      self.init("the log has failed: \(reason)", isTrouble: true)
    case .repaired(let leg, let sectors):
      self.init("\(sectors.label) of leg \(leg) were mended", isCounted: false)
    case .sidecarFailed(let reason):
      self.init("the sidecar can't be written: \(reason)", isCounted: false, isTrouble: true)
    }
  }
}

/// The words of a `mirror` line with the devices that they name.
struct MirrorLine: Sendable {
  let legs: [(opened: TableDevice, start: Sector)]
  let log: TableDevice?
  let options: MirrorOptions
  let parameters: MirrorParameters
  private let table: MirrorTable

  init(_ context: TargetContext) async throws(DeviceMapperError) {
    let words = context.line.words
    let split = MirrorOptions.start(words.map(\.text))
    do throws(MirrorError) {
      table = try MirrorTable(
        words: words[..<split].map(\.text), length: context.sectors.length)
    } catch { throw context.refusedWords(error.description, words) }
    // The words have been checked: the log's device is the third, legs follow the log's arguments.
    if table.log != nil { log = try await context.device(words[2]) } else { log = nil }
    var legs: [(opened: TableDevice, start: Sector)] = []
    var place = 3 + (Int(words[1].text) ?? 0)
    for leg in table.legs {
      legs.append(
        (
          try await context.device(words[place], from: leg.offset, placed: words[place + 1]),
          leg.offset
        ))
      place += 2
    }
    self.legs = legs
    options = try await MirrorOptions(context, Array(words[split...]))
    var parameters = table.parameters
    parameters.conduct = options.isLikeKernel ? .kernel : context.services.mirrorConduct
    if options.distrustsFirstLeg { parameters.conduct.trustsFirstLeg = false }
    self.parameters = parameters
  }

  func table(_ labels: DeviceLabels) -> String {
    var printed = table
    for (index, leg) in legs.enumerated() { printed.legs[index].device = labels(leg.opened) }
    printed.log = log.map { labels($0) }
    let hasFeatures = table.parameters.handlesErrors
    return printed.words + options.words(labels, afterFeatures: hasFeatures)
  }

  func status(_ device: MirrorDevice, _ labels: DeviceLabels) async -> String {
    let all = legs.map(\.opened) + (log.map { [$0] } ?? [])
    return await device.status.line { name in
      all.first { $0.device.name == name }.map { labels($0) } ?? name
    }
  }
}

/// The words behind a mirror's features, `#words word…`, this program's own:
///
/// | Words | Meaning |
/// |---|---|
/// | `sidecar DEVICE` | keeps which legs are right where they differ, over a restart |
/// | `distrust_first_leg` | without a sidecar a log that isn't in sync is refused |
/// | `like_kernel` | behaves as the kernel's mirror where this one does better |
struct MirrorOptions: Sendable {
  private(set) var sidecar: TableDevice?
  private(set) var distrustsFirstLeg = false
  private(set) var isLikeKernel = false

  /// Where they begin in a line: behind log, legs and features, as far as these can be made out.
  static func start(_ words: [String]) -> Int {
    guard words.count > 1, let log = Int(words[1]), 0...100 ~= log, words.count > 2 + log,
      let legs = Int(words[2 + log]), 0...100 ~= legs
    else { return words.count }
    let features = 3 + log + 2 * legs
    guard words.count > features, let count = Int(words[features]), 0...100 ~= count else {
      return words.count
    }
    return min(words.count, features + 1 + count)
  }

  init(_ context: TargetContext, _ words: [TableWord]) async throws(DeviceMapperError) {
    guard let first = words.first else { return }
    let count = try first.number("number of option words")
    guard count == words.count - 1 else {
      throw first.refused("\(count) option words are announced and \(words.count - 1) given")
    }
    var rest = words.dropFirst()
    while let word = rest.popFirst() {
      switch word.text {
      case "distrust_first_leg": distrustsFirstLeg = true
      case "like_kernel": isLikeKernel = true
      case "sidecar":
        guard let device = rest.popFirst() else {
          throw context.line.end.refused("the device of 'sidecar' is missing")
        }
        sidecar = try await context.device(device)
      default:
        throw word.refused(
          "there is no option '\(word.text)'",
          advice: "there are sidecar DEVICE, distrust_first_leg, like_kernel")
      }
    }
  }

  func words(_ labels: DeviceLabels, afterFeatures: Bool) -> String {
    var own: [String] = []
    if let sidecar { own += ["sidecar", labels(sidecar)] }
    if distrustsFirstLeg { own.append("distrust_first_leg") }
    if isLikeKernel { own.append("like_kernel") }
    guard !own.isEmpty else { return "" }
    return (afterFeatures ? " " : " 0 ") + (["\(own.count)"] + own).joined(separator: " ")
  }
}
