public import BlockIO
import Synchronization
import SystemPackage

/// `delay DEVICE START MS [DEVICE START MS [DEVICE START MS]]`: holds requests back for a time;
/// reads, writes and flushes may each have their own device and delay.
public final class DelayTarget: Target {
  public let sectors: Range<Sector>
  private let classes: [(mapping: Mapping, milliseconds: UInt64)]
  private let loop: IOLoop
  private let state = Mutex(State())

  private struct State {
    var isDelaying = true
    var waiting: [UInt64: UnsafeContinuation<Void, Never>] = [:]
    var counts = [0, 0, 0]
    var number: UInt64 = 0
  }

  init(_ context: TargetContext, _ classes: [(mapping: Mapping, milliseconds: UInt64)]) {
    sectors = context.sectors
    loop = context.loop
    self.classes = classes
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "delay"
    public let version = "1.5.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      var arguments = context.arguments
      guard [3, 6, 9].contains(arguments.count) else {
        throw context.line.end.refused(
          "\(arguments.count) words; 3, 6 or 9 are wanted: device, start and milliseconds of all,"
            + " of writes, of flushes")
      }
      var classes: [(mapping: Mapping, milliseconds: UInt64)] = []
      while !arguments.isAtEnd {
        let mapping = try await arguments.mapping()
        let delay: UInt64 = try arguments.number(
          "delay in milliseconds", in: 0...UInt64(UInt32.max))
        classes.append((mapping, delay))
      }
      return DelayTarget(context, classes)
    }
  }

  public var limits: DeviceLimits? {
    var limits = classes[0].mapping.device.limits
    for (mapping, _) in classes.dropFirst() {
      let other = mapping.device.limits
      limits.logicalBlock = max(limits.logicalBlock, other.logicalBlock)
      limits.supportsFUA = limits.supportsFUA && other.supportsFUA
      limits.supportsDiscard = limits.supportsDiscard && other.supportsDiscard
      limits.isReadOnly = limits.isReadOnly || other.isReadOnly
    }
    return limits
  }

  private static let reads = 0
  private static let writes = 1
  private static let flushes = 2

  /// What a kind of request has: its own, or the one before.
  private func entry(_ kind: Int) -> (mapping: Mapping, milliseconds: UInt64) {
    classes[min(kind, classes.count - 1)]
  }

  /// Waits for the delay of a kind, and says where it goes.
  private func delayed(_ kind: Int) async -> Mapping {
    let (mapping, milliseconds) = entry(kind)
    guard milliseconds > 0 else { return mapping }
    let number: UInt64? = state.withLock { state in
      guard state.isDelaying else { return nil }
      state.number += 1
      state.counts[kind] += 1
      return state.number
    }
    guard let number else { return mapping }
    let loop = loop
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
      let isLate = state.withLock { state in
        if state.isDelaying { state.waiting[number] = continuation }
        return !state.isDelaying
      }
      if isLate { return continuation.resume() }
      let end = loop.now.advanced(by: .milliseconds(Int64(milliseconds)))
      Task(executorPreference: loop) { [weak self] in
        // Not longer than it is waited for: the delay may be one of weeks, and be cut short.
        while loop.now < end, let self, self.isWaiting(number) {
          await loop.sleep(for: min(loop.now.duration(to: end), .seconds(1)))
        }
        self?.state.withLock { $0.waiting.removeValue(forKey: number) }?.resume()
      }
    }
    state.withLock { $0.counts[kind] -= 1 }
    return mapping
  }

  private func isWaiting(_ number: UInt64) -> Bool {
    state.withLock { $0.waiting[number] != nil }
  }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await delayed(Self.reads).read(sectors, into: buffer)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await delayed(Self.writes).write(sectors, from: buffer, options: options)
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await delayed(Self.writes).writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await delayed(Self.writes).discard(sectors)
  }

  /// Where writes go must be flushed, whatever device flushes are given to.
  public func flush() async throws(IOFailure) {
    let mapping = await delayed(Self.flushes)
    let writes = entry(Self.writes).mapping
    if writes.device.identity != mapping.device.identity { try await writes.flush() }
    try await mapping.flush()
  }

  public func presuspend(isNoFlush: Bool) async {
    let waiting = state.withLock { state in
      state.isDelaying = false
      defer { state.waiting = [:] }
      return state.waiting
    }
    for (_, continuation) in waiting.sorted(by: { $0.key < $1.key }) { continuation.resume() }
  }

  public func resume() async { state.withLock { $0.isDelaying = true } }

  public func status(_ labels: DeviceLabels) async -> String {
    state.withLock { $0.counts }.map(String.init).joined(separator: " ")
  }

  public func table(_ labels: DeviceLabels) async -> String {
    classes.map { "\($0.mapping.words(labels)) \($0.milliseconds)" }.joined(separator: " ")
  }
}
