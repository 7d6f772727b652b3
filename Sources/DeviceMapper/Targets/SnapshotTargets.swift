public import BlockIO
public import Snapshots
import SystemPackage

/// `snapshot-origin DEVICE`: a device with snapshots; what is written is copied for them first.
public final class OriginTarget: PassingTarget {
  public let sectors: Range<Sector>
  private let opened: TableDevice
  public let device: OriginDevice
  private let services: TargetServices

  init(_ context: TargetContext, _ opened: TableDevice, _ origin: Origin) {
    sectors = context.sectors
    services = context.services
    self.opened = opened
    device = origin.device
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "snapshot-origin"
    public let version = "1.9.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      var arguments = context.arguments
      let word = try arguments.next("origin")
      try arguments.finish()
      let opened = try await context.device(word, from: context.sectors.lowerBound)
      return OriginTarget(context, opened, try context.origin(opened, isWritten: true))
    }
  }

  public func destroy() async { services.releaseOrigin(device.origin) }
  public func table(_ labels: DeviceLabels) async -> String { labels(opened) }
}

/// What `snapshot` and `snapshot-merge` have in common: two devices, a store, options.
struct SnapshotLine: Sendable {
  let origin: TableDevice
  let cow: TableDevice
  let options: SnapshotOptions
  let shared: Origin

  init(_ context: TargetContext, access: DeviceAccess) async throws(DeviceMapperError) {
    var arguments = context.arguments
    let originWord = try arguments.next("origin")
    let cowWord = try arguments.next("COW device")
    options = try SnapshotOptions(context, Array(context.line.words.dropFirst(2)))
    origin = try await context.device(originWord, access, from: context.sectors.lowerBound)
    cow = try await context.device(cowWord)
    // Its header is read now.
    try cow.requireRunning()
    guard origin.device.identity != cow.device.identity else {
      throw cowWord.refused("origin and COW device are the same: '\(cowWord.text)'")
    }
    shared = try context.origin(origin, isWritten: access == .write && !context.isReadOnly)
  }

  /// The COW device, which a read-only mapped device doesn't write.
  func cowDevice(_ context: TargetContext) -> any BlockDevice {
    context.isReadOnly && !cow.device.limits.isReadOnly ? ReadOnlyDevice(cow.device) : cow.device
  }

  /// A refusal by the snapshot itself; the origin isn't used then.
  func refused(_ error: SnapshotError, _ context: TargetContext) -> DeviceMapperError {
    context.services.releaseOrigin(shared)
    let words = context.line.words
    let word: TableWord
    switch error {
    case .chunkSize: word = words[3]
    case .originTooSmall: word = words[0]
    default: word = words[1]
    }
    return word.refused(error.description)
  }

  func table(_ labels: DeviceLabels, _ words: String) -> String {
    "\(labels(origin)) \(labels(cow)) \(options.words(kernel: words))"
  }
}

extension TargetContext {
  /// The origin on a device.
  func origin(_ device: TableDevice, isWritten: Bool) throws(DeviceMapperError) -> Origin {
    do throws(SnapshotError) {
      let origin = try services.takeOrigin(device)
      guard isWritten, origin.underlying.limits.isReadOnly, !device.device.limits.isReadOnly else {
        return origin
      }
      services.releaseOrigin(origin)
      throw .state("'\(device.word.text)' is in use by a snapshot that has opened it for reading")
    } catch {
      throw device.word.refused(error.description)
    }
  }

  var snapshotEvents: @Sendable (SnapshotEvent) -> Void {
    let onEvent = onEvent
    return { event in
      let text =
        switch event {
        case .invalidated(let reason): "the snapshot is invalid: \(reason)"
        case .overflowed: "the snapshot has overflowed"
        case .holding: "writes to the origin wait for room in the COW device"
        case .grown(let size): "the COW device has grown to \(size.rawValue) sectors"
        case .merged: "the snapshot has been merged"
        case .mergeFailed(let reason): "the merge has failed: \(reason)"
        }
      let (isCounted, isTrouble) =
        switch event {
        case .invalidated: (true, true)
        case .overflowed, .holding, .mergeFailed: (false, true)
        case .grown, .merged: (false, false)
        }
      onEvent(TargetEvent(text, isCounted: isCounted, isTrouble: isTrouble))
    }
  }
}

/// `snapshot ORIGIN COW STORE CHUNK [#features feature… [#options option…]]`.
public final class SnapshotTarget: PassingTarget {
  public let sectors: Range<Sector>
  private let line: SnapshotLine
  public let device: SnapshotDevice
  private let services: TargetServices

  init(_ context: TargetContext, _ line: SnapshotLine, _ device: SnapshotDevice) {
    sectors = context.sectors
    services = context.services
    self.line = line
    self.device = device
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "snapshot"
    public let version = "1.16.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      let line = try await SnapshotLine(context, access: .readOfShared)
      do throws(SnapshotError) {
        let device = try await line.shared.addSnapshot(
          cow: line.cowDevice(context), parameters: line.options.parameters,
          sectorCount: context.sectors.upperBound, onEvent: context.snapshotEvents)
        return SnapshotTarget(context, line, device)
      } catch { throw line.refused(error, context) }
    }
  }

  public func postsuspend() async { await device.suspend() }

  public func preresume() async throws(DeviceMapperError) {
    do { try await device.resume() } catch {
      throw DeviceMapperError(.state, error.description)
    }
  }

  public func destroy() async {
    await device.remove()
    services.releaseOrigin(line.shared)
  }

  public var figures: TargetFigures? {
    get async { .snapshot(await device.status, cow: line.cow.word.text) }
  }

  public func status(_ labels: DeviceLabels) async -> String { await device.status.line }

  public func table(_ labels: DeviceLabels) async -> String {
    line.table(labels, await device.tableWords)
  }
}

/// `snapshot-merge ORIGIN COW STORE CHUNK [#features feature… [#options option…]]`: stands in for
/// the snapshot-origin while the snapshot is merged into it.
public final class MergeTarget: PassingTarget {
  public let sectors: Range<Sector>
  private let line: SnapshotLine
  public let device: MergeDevice
  private let services: TargetServices

  init(_ context: TargetContext, _ line: SnapshotLine, _ device: MergeDevice) {
    sectors = context.sectors
    services = context.services
    self.line = line
    self.device = device
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "snapshot-merge"
    public let version = "1.5.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      let line = try await SnapshotLine(context, access: .write)
      do throws(SnapshotError) {
        let device = try await line.shared.addMerge(
          cow: line.cowDevice(context), parameters: line.options.parameters,
          sectorCount: context.sectors.upperBound, onEvent: context.snapshotEvents)
        return MergeTarget(context, line, device)
      } catch { throw line.refused(error, context) }
    }
  }

  public func presuspend(isNoFlush: Bool) async { await device.suspend() }

  public func preresume() async throws(DeviceMapperError) {
    do { try await device.resume() } catch {
      throw DeviceMapperError(.state, error.description)
    }
  }

  public func destroy() async {
    await device.remove()
    services.releaseOrigin(line.shared)
  }

  public var figures: TargetFigures? {
    get async { .snapshot(await device.status, cow: line.cow.word.text) }
  }

  public func status(_ labels: DeviceLabels) async -> String { await device.status.line }

  public func table(_ labels: DeviceLabels) async -> String {
    line.table(labels, await device.tableWords)
  }
}
