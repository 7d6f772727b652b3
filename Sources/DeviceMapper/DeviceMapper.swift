public import BlockIO
public import Kcopyd
public import Mirrors

/// Devices made of other devices by tables, under names, as `dmsetup` handles them.
///
/// Each device has a live table, to which its requests go, and an inactive one that takes its place
/// with the next resume. Verbs on one device follow each other; none is cut short when the task that
/// called it is cancelled. What is refused changes nothing.
public actor DeviceMapper {
  /// How a mapper behaves.
  public struct Configuration: Sendable {
    /// The targets that tables may name.
    public var targets = TargetRegistry.all
    /// The major number of its devices.
    public var major = 253
    /// How mirrors behave that don't say so themselves.
    public var mirrorConduct = MirrorParameters.Conduct()
    /// Slows down the copying of all snapshots: the kernel's `snapshot_copy_throttle`.
    public var snapshotCopyThrottle: Throttle?
    /// Slows down the recovery of all mirrors: the kernel's `raid1_resync_throttle`.
    public var mirrorResyncThrottle: Throttle?
    /// Decides about the random corruptions of flakey.
    public var randomSeed = UInt64.random(in: .min ... .max)
    var faults: GateFaults = []

    /// The usual.
    public init() {}
  }

  /// Where everything runs.
  public nonisolated let loop: IOLoop
  /// How it behaves.
  public nonisolated let configuration: Configuration
  public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  let services: TargetServices
  let opener: DeviceOpener
  let opened: OpenDevices
  var entries: [Int: DeviceEntry] = [:]
  var minors: [String: Int] = [:]
  var listeners: [UInt64: AsyncStream<DeviceEvent>.Continuation] = [:]
  var listenerCount: UInt64 = 0

  /// A mapper without devices.
  ///
  /// - Parameters:
  ///   - opener: opens what tables name besides its own devices.
  ///   - configuration: how it behaves.
  ///   - loop: where everything runs.
  public init(
    _ opener: DeviceOpener, configuration: Configuration = Configuration(), on loop: IOLoop
  ) {
    self.opener = opener
    self.configuration = configuration
    self.loop = loop
    opened = OpenDevices(opener)
    services = TargetServices(configuration, on: loop)
  }

  /// Opens for reading what a table may name, for whoever wants to know something of it.
  public nonisolated func openForLooking(
    _ word: String
  ) async throws(IOFailure) -> any BlockDevice {
    try await opener.open(word, false)
  }

  // MARK: Finding

  /// The device of a name, of `/dev/mapper/NAME`, or of its `major:minor`.
  func lookUp(_ word: String) -> DeviceEntry? {
    let name = word.hasPrefix("/dev/mapper/") ? String(word.dropFirst(12)) : word
    if let minor = minors[name] { return entries[minor] }
    let parts = word.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2, Int(parts[0]) == configuration.major, let minor = Int(parts[1]) else {
      return nil
    }
    return entries[minor]
  }

  func find(_ name: String) throws(DeviceMapperError) -> DeviceEntry {
    guard let entry = lookUp(name), !entry.isRemoved else {
      throw DeviceMapperError(.missing, device: name, "there is no such device")
    }
    return entry
  }

  /// Does something with a device while no other verb does, whatever becomes of the calling task.
  func changing<R: Sendable>(
    _ name: String,
    _ body:
      @escaping @Sendable (isolated DeviceMapper, Int) async throws(DeviceMapperError) -> R
  ) async throws(DeviceMapperError) -> R {
    try await changing([name]) { (mapper, minors) async throws(DeviceMapperError) in
      try await body(mapper, minors[0])
    }
  }

  /// The same with several devices.
  func changing<R: Sendable>(
    _ names: [String],
    _ body:
      @escaping @Sendable (isolated DeviceMapper, [Int]) async throws(DeviceMapperError) -> R
  ) async throws(DeviceMapperError) -> R {
    let task = Task(executorPreference: loop) { () async -> Result<R, DeviceMapperError> in
      await self.locked(names, body)
    }
    return try await task.value.get()
  }

  private func locked<R: Sendable>(
    _ names: [String],
    _ body: @Sendable (isolated DeviceMapper, [Int]) async throws(DeviceMapperError) -> R
  ) async -> Result<R, DeviceMapperError> {
    do throws(DeviceMapperError) {
      var wanted: [DeviceEntry] = []
      for name in names { wanted.append(try find(name)) }
      // In the same order for everyone: nobody waits for one who waits for him. Each one once.
      let all = Set(wanted.map(\.minor)).sorted().compactMap { entries[$0] }
      for entry in all { await entry.lock() }
      defer { for entry in all { entry.unlock() } }
      for (entry, name) in zip(wanted, names) where entry.isRemoved {
        throw DeviceMapperError(.missing, device: name, "it has been removed meanwhile")
      }
      do throws(DeviceMapperError) {
        return .success(try await body(self, wanted.map(\.minor)))
      } catch { throw error.of(names.count == 1 ? wanted[0].name : "") }
    } catch {
      var plain = error
      if plain.device == "" { plain.device = nil }
      return .failure(plain)
    }
  }

  func entry(_ minor: Int) -> DeviceEntry {
    guard let entry = entries[minor] else {
      preconditionFailure("a device went while a verb was at work on it")
    }
    return entry
  }

  // MARK: Labels

  /// `major:minor`, as the kernel prints devices; a path or URI where there is no number.
  nonisolated var numbers: DeviceLabels {
    let (major, number) = (configuration.major, opener.number)
    return DeviceLabels { device in
      if case .mapped(let minor) = device.key { return "\(major):\(minor)" }
      return number(device.word.text, device.device) ?? device.word.text
    }
  }

  /// Names and paths, which hold over a restart.
  nonisolated var names: DeviceLabels {
    DeviceLabels { device in
      if case .mapped = device.key { return "/dev/mapper/\(device.device.name)" }
      return device.word.text
    }
  }
}
