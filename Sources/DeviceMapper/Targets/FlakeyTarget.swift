public import BlockIO
import Synchronization
import SystemPackage

/// `flakey DEVICE START UP DOWN [#words word…]`: works for some seconds, then doesn't for others.
public final class FlakeyTarget: Target {
  public let sectors: Range<Sector>
  private let mapping: Mapping
  private let up: UInt64
  private let down: UInt64
  private let parameters: FlakeyParameters
  private let deviceName: String
  private let loop: IOLoop
  /// When the table was loaded.
  private let start: LoopInstant
  private let random: Mutex<Random>

  /// SplitMix64: which requests are hit must be repeatable.
  private struct Random: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
      state &+= 0x9e37_79b9_7f4a_7c15
      var mixed = state
      mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
      mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
      return mixed ^ (mixed >> 31)
    }
  }

  init(
    _ context: TargetContext, _ mapping: Mapping, up: UInt64, down: UInt64,
    _ parameters: FlakeyParameters
  ) {
    sectors = context.sectors
    deviceName = context.deviceName
    loop = context.loop
    self.mapping = mapping
    self.up = up
    self.down = down
    self.parameters = parameters
    start = context.loop.now
    random = Mutex(Random(state: context.services.randomSeed))
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "flakey"
    public let version = "1.5.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      var arguments = context.arguments
      let mapping = try await arguments.mapping()
      let up: UInt64 = try arguments.number("up interval in seconds", in: 0...UInt64(UInt32.max))
      let down: UInt64 = try arguments.number(
        "down interval in seconds", in: 0...UInt64(UInt32.max))
      if up + down == 0 { throw arguments.last.refused("up and down are both 0 seconds") }
      let parameters = try FlakeyParameters(&arguments)
      try arguments.finish()
      return FlakeyTarget(context, mapping, up: up, down: down, parameters)
    }
  }

  public var limits: DeviceLimits? { mapping.device.limits }

  private var isDown: Bool {
    let seconds = UInt64(start.duration(to: loop.now).nanoseconds) / 1_000_000_000
    return seconds % (up + down) >= up
  }

  private func failure(_ operation: IOFailure.Operation, _ sectors: Range<Sector>?) -> IOFailure {
    IOFailure(operation, deviceName, sectors, errno: .ioError, detail: "flakey is down")
  }

  /// Whether a request that changes something is to be done; it may be said to be.
  private func mayWrite(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>?
  ) throws(IOFailure) -> Bool {
    guard isDown else { return true }
    if parameters.errorWrites { throw failure(operation, sectors) }
    return !parameters.dropWrites
  }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    let isDown = isDown
    if isDown, parameters.errorReads { throw failure(.read, sectors) }
    try await mapping.read(sectors, into: buffer)
    guard isDown else { return }
    for (byte, value) in corruptions(isWrite: false, flags: 0, length: buffer.byteCount) {
      buffer.store(value, at: byte)
    }
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    let isDown = isDown
    guard try mayWrite(.write, sectors) else { return }
    let changes =
      isDown
      ? corruptions(
        isWrite: true, flags: options.contains(.durable) ? 1 | 1 << 17 : 1,
        length: buffer.byteCount) : []
    guard !changes.isEmpty else {
      return try await mapping.write(sectors, from: buffer, options: options)
    }
    // The caller's memory stays as it is.
    let pages = try PagePool.lend(holding: sectors.length)
    let copy = pages.buffer.slice(.zero, sectors.length)
    copy.copy(from: buffer)
    for (byte, value) in changes { copy.store(value, at: byte) }
    try await mapping.write(sectors, from: copy, options: options)
  }

  /// The bytes of a request that become others.
  private func corruptions(isWrite: Bool, flags: UInt32, length: Int) -> [(Int, UInt8)] {
    var changes: [(Int, UInt8)] = []
    if let corruption = parameters.corruption, corruption.isWrite == isWrite,
      flags & corruption.flags == corruption.flags, corruption.byte <= UInt64(length)
    {
      changes.append((Int(corruption.byte) - 1, corruption.value))
    }
    let probability =
      isWrite ? parameters.randomWriteCorruption : parameters.randomReadCorruption
    guard probability > 0, length > 0 else { return changes }
    random.withLock { random in
      if random.next() % FlakeyParameters.certain < probability {
        changes.append(
          (Int(random.next() % UInt64(length)), UInt8(truncatingIfNeeded: random.next())))
      }
    }
    return changes
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    guard try mayWrite(.writeZeroes, sectors) else { return }
    try await mapping.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    guard try mayWrite(.discard, sectors) else { return }
    try await mapping.discard(sectors)
  }

  public func flush() async throws(IOFailure) {
    guard try mayWrite(.flush, nil) else { return }
    try await mapping.flush()
  }

  public func table(_ labels: DeviceLabels) async -> String {
    "\(mapping.words(labels)) \(up) \(down) \(parameters.words)"
  }
}
