public import BlockIO
public import Kcopyd

/// A leg of a mirror: a device, and where on it the mirror begins.
public struct MirrorLeg: Sendable {
  /// The device.
  public let device: any BlockDevice
  /// Where on it the mirror begins.
  public let offset: Sector

  /// A leg.
  public init(_ device: any BlockDevice, offset: Sector = .zero) {
    self.device = device
    self.offset = offset
  }
}

/// Several copies of the same data as one device: the kernel's `mirror`.
///
/// Writes go to all legs, reads to one of them. A dirty log, in memory or on a device in the
/// kernel's format, knows which regions may differ after a loss of power; these are copied from one
/// leg to the others while the mirror is used.
public final class MirrorDevice: BlockDevice {
  public let name: String
  public let limits: DeviceLimits

  let mirror: Mirror

  /// A mirror, not resumed yet. Nothing is read or written before that.
  ///
  /// - Parameters:
  ///   - legs: 2 to 9; the first one is trusted where they may differ.
  ///   - log: the log device; nil: in memory, so that everything is copied after each start.
  ///   - sidecar: a small device, 128 KiB, that keeps which legs hold what was acknowledged where
  ///     they differ: the kernel's log has no place for it, and after a restart trusts the first
  ///     leg, even if that is the one that missed a write.
  ///   - sectorCount: the length; nil: as long as all legs go.
  ///   - parameters: region size, features, and how far to go beyond the kernel.
  ///   - name: what it is called in messages.
  ///   - subJob: how much recovery copies in one go; 0: what suits most devices.
  ///   - throttle: slows down recovery, together with all others made with the same one: the
  ///     kernel's `raid1_resync_throttle`. Otherwise the mirror has its own, without a limit.
  ///   - loop: where everything runs.
  ///   - onEvent: called on the loop when something happens to the mirror.
  public init(
    legs: [MirrorLeg], log: (any BlockDevice)?, sidecar: (any BlockDevice)? = nil,
    sectorCount: Sector? = nil,
    parameters: MirrorParameters, name: String = "mirror", subJob: Sector = .zero,
    throttle: Throttle = Throttle(),
    on loop: IOLoop, onEvent: @escaping @Sendable (MirrorEvent) -> Void = { _ in }
  ) throws(MirrorError) {
    let whole =
      legs.map { $0.device.sectorCount - min($0.offset, $0.device.sectorCount) }.min() ?? .zero
    mirror = try Mirror(
      legs: legs.map { ($0.device, $0.offset) }, log: log, name: name, sidecar: sidecar,
      sectorCount: sectorCount ?? whole, parameters: parameters, subJob: subJob, throttle: throttle,
      on: loop,
      onEvent: onEvent)
    self.name = name
    byteCount = min(
      mirror.sectorCount.bytes,
      legs.map { $0.device.byteCount - min($0.offset.bytes, $0.device.byteCount) }.min() ?? 0)
    var limits = DeviceLimits()
    let below = legs.map(\.device.limits)
    limits.logicalBlock = below.map(\.logicalBlock).max() ?? 512
    limits.physicalBlock = below.map(\.physicalBlock).max() ?? 512
    limits.optimalTransfer = below.map(\.optimalTransfer).min() ?? limits.optimalTransfer
    limits.isReadOnly = below.contains { $0.isReadOnly }
    limits.supportsFUA = below.allSatisfy(\.supportsFUA)
    limits.supportsDiscard = below.allSatisfy(\.supportsDiscard)
    self.limits = limits
  }

  public var sectorCount: Sector { mirror.sectorCount }

  /// How much of the time recovery may take, and how many bytes per second it may copy: both may
  /// be changed while it goes on.
  public var throttle: Throttle { mirror.throttle }

  /// Legs may end within their last sector.
  public let byteCount: UInt64

  // MARK: Requests

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try check(sectors, for: .read)
    switch mirror.beginReadHere(sectors, into: buffer) {
    case .done: return
    case .begun(let request):
      try await mirror.finishReadHere(sectors, by: request, into: buffer)
    case .failed(let leg, let failure):
      try await mirror.readHere(sectors, into: buffer, after: leg, failure)
    case .elsewhere: try await mirror.read(sectors, into: buffer)
    }
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try check(sectors, for: .write)
    switch mirror.beginWriteHere(sectors, from: buffer, options: options) {
    case .done: return
    case .begun(let write):
      try await mirror.finishWriteHere(write, sectors, from: buffer, options: options)
    case .elsewhere: try await mirror.write(sectors, from: buffer, options: options)
    }
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try check(sectors, for: .discard)
    try await mirror.discard(sectors)
  }

  public func flush() async throws(IOFailure) { try await mirror.flush() }

  // MARK: Life

  /// Reads the log and starts to copy what isn't in sync.
  ///
  /// A log that can't be read doesn't stop the mirror: everything is out of sync then.
  ///
  /// - Throws: when the log's device or the sidecar's is suspended for too long; when the sidecar
  ///   can't be read, belongs to another mirror, or doesn't know either; or there is none, and the
  ///   first leg isn't to be trusted blindly. Nothing has been copied then.
  public func resume() async throws(MirrorError) { try await mirror.resume() }

  /// Stops copying, waits until no request is under way, and brings the log up to date.
  ///
  /// - Parameter requeuing: how writes end that were held because a leg failed: so that
  ///   ``IOFailure/isRequeued`` holds, for the device that takes this one's place; otherwise with
  ///   an error.
  public func suspend(requeuing: Bool = false) async {
    await mirror.suspend(requeuing: requeuing)
  }

  /// How it is doing.
  public var status: MirrorStatus { get async { await mirror.status } }

  /// What has been done with each leg, in the order of the table.
  public var legStatistics: [LegStatistics] {
    get async { await mirror.legStatistics }
  }

  /// Waits until no region is being copied: all are in sync, or what is left couldn't be.
  public func waitForRecovery() async { await mirror.waitForRecovery() }
}
