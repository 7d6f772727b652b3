public import BlockIO
import SystemPackage

/// `log-writes DEVICE LOG`: passes everything on and records writes in the order in which they
/// became durable.
public final class LogWritesTarget: Target {
  public let sectors: Range<Sector>
  private let opened: TableDevice
  private let log: WriteLog

  init(_ context: TargetContext, _ opened: TableDevice, _ log: WriteLog) {
    sectors = context.sectors
    self.opened = opened
    self.log = log
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "log-writes"
    public let version = "1.1.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      var arguments = context.arguments
      let word = try arguments.next("device")
      // Sectors aren't moved: they are those of the device itself.
      let opened = try await context.device(word, from: context.sectors.lowerBound)
      let logWord = try arguments.next("log device")
      let log = try await context.device(logWord)
      try arguments.finish()
      guard log.device.identity != opened.device.identity else {
        throw logWord.refused("the log is the device itself")
      }
      return LogWritesTarget(
        context, opened,
        WriteLog(log, block: opened.device.limits.logicalBlock, on: context.loop) {
          context.onEvent(TargetEvent($0, isCounted: false, isTrouble: true))
        })
    }
  }

  public var limits: DeviceLimits? { opened.device.limits }
  private var device: any BlockDevice { opened.device }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await device.read(sectors, into: buffer)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    let data = await log.copy(of: buffer)
    let isDurable = options.contains(.durable)
    let result = await outcome { () async throws(IOFailure) in
      try await device.write(sectors, from: buffer, options: options)
    }
    if let data {
      await log.completed(
        .init(sectors: sectors, flags: isDurable ? .durable : [], data: data))
    }
    try result.get()
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    // Recorded as what it is on the device: zeros.
    let result = await outcome { () async throws(IOFailure) in
      try await device.writeZeroes(sectors, mayUnmap: mayUnmap)
    }
    await log.completedZeroes(sectors)
    try result.get()
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    let result = await outcome { () async throws(IOFailure) in try await device.discard(sectors) }
    await log.completed(.init(sectors: sectors, flags: .discard))
    try result.get()
  }

  public func flush() async throws(IOFailure) {
    let parked = await log.takeParked()
    let result = await outcome { () async throws(IOFailure) in try await device.flush() }
    await log.record(parked + [.init(flags: .flush)])
    try result.get()
  }

  private func outcome(_ body: () async throws(IOFailure) -> Void) async -> Result<Void, IOFailure>
  {
    do throws(IOFailure) {
      try await body()
      return .success(())
    } catch { return .failure(error) }
  }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try await device.blockStatus(sectors, limit: limit)
  }

  public func message(_ words: [String]) async throws(DeviceMapperError) -> String? {
    guard words.count >= 2, words[0] == "mark" else {
      throw DeviceMapperError(
        .message, "log-writes takes no message '\(words.joined(separator: " "))'",
        advice: "there is: mark TEXT")
    }
    try await log.mark(words.dropFirst().joined(separator: " "))
    return nil
  }

  public func destroy() async { await log.end() }

  public func status(_ labels: DeviceLabels) async -> String { await log.status }

  public func table(_ labels: DeviceLabels) async -> String {
    "\(labels(opened)) \(labels(log.opened))"
  }
}

/// The log of a `log-writes` target.
actor WriteLog {
  nonisolated let loop: IOLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }
  nonisolated let opened: TableDevice

  /// The most memory, in bytes, for writes that no flush has covered yet.
  private static let parkedLimit = 256 << 20

  private let block: Int
  private let onEvent: @Sendable (String) -> Void
  /// Writes that have completed since the last flush was issued.
  private var parked: [WriteLogFormat.Entry] = []
  private var parkedBytes = 0
  private var isRecording = true
  private var entries: UInt64 = 0
  private var next: Sector
  private var isWriting = false
  private let written = Gate()
  private var isUsed = false

  init(
    _ opened: TableDevice, block: Int, on loop: IOLoop,
    onEvent: @escaping @Sendable (String) -> Void
  ) {
    self.opened = opened
    self.block = block
    self.loop = loop
    self.onEvent = onEvent
    next = Sector(holding: UInt64(block))
  }

  /// What is to be written, as long as it is recorded.
  func copy(of buffer: IOBuffer) -> [UInt8]? {
    guard isRecording else { return nil }
    var bytes = [UInt8](repeating: 0, count: buffer.byteCount)
    buffer.store(into: &bytes)
    return bytes
  }

  /// A write or discard is over: a durable one is recorded at once, others with the next flush.
  func completed(_ entry: WriteLogFormat.Entry) async {
    guard isRecording else { return }
    if entry.flags.contains(.durable) { return await record([entry]) }
    parked.append(entry)
    parkedBytes += entry.data.count
    if parkedBytes > Self.parkedLimit {
      stop("more than \(Self.parkedLimit >> 20) MiB were written without a flush")
    }
  }

  func completedZeroes(_ sectors: Range<Sector>) async {
    var rest = sectors
    while !rest.isEmpty, isRecording {
      let count = min(rest.length, Sector(holding: 1 << 20))
      let piece = rest.lowerBound..<rest.lowerBound + count
      await completed(
        .init(sectors: piece, data: [UInt8](repeating: 0, count: Int(count.bytes))))
      rest = piece.upperBound..<rest.upperBound
    }
  }

  /// What a flush that is issued now covers.
  func takeParked() -> [WriteLogFormat.Entry] {
    defer {
      parked = []
      parkedBytes = 0
    }
    return parked
  }

  /// Writes entries, those of one call together.
  func record(_ new: [WriteLogFormat.Entry]) async {
    while isWriting { await written.wait { isWriting } }
    isWriting = true
    defer {
      isWriting = false
      written.open()
    }
    for entry in new where isRecording {
      let bytes = WriteLogFormat.bytes(of: entry, block: block)
      let count = Sector(holding: UInt64(bytes.count))
      guard next + count <= opened.device.wholeSectorCount else { return stop("the log is full") }
      guard await put(bytes, at: next) else { return }
      isUsed = true
      next += count
      entries += 1
      if !entry.flags.isDisjoint(with: [.durable, .mark]) {
        guard await put(WriteLogFormat.superblock(entries: entries, block: block), at: .zero)
        else { return }
      }
    }
  }

  private func put(_ bytes: [UInt8], at sector: Sector) async -> Bool {
    let count = Sector(holding: UInt64(bytes.count))
    do throws(IOFailure) {
      let pages = try PagePool.lend(holding: count)
      let buffer = pages.buffer.slice(.zero, count)
      buffer.load(from: bytes)
      try await opened.device.write(sector..<sector + count, from: buffer)
      return true
    } catch {
      stop(error.description)
      return false
    }
  }

  private func stop(_ reason: String) {
    guard isRecording else { return }
    isRecording = false
    parked = []
    parkedBytes = 0
    onEvent("recording has stopped: \(reason)")
  }

  func mark(_ text: String) async throws(DeviceMapperError) {
    let bytes = Array(text.utf8)
    guard bytes.count <= WriteLogFormat.longestMark(block: block) else {
      throw DeviceMapperError(
        .message,
        "a mark of \(bytes.count) bytes;"
          + " \(WriteLogFormat.longestMark(block: block)) are possible")
    }
    await record([.init(flags: .mark, data: bytes)])
  }

  /// Writes what is left. A table that was never used leaves the log as it is.
  func end() async {
    guard isUsed || !parked.isEmpty else { return }
    await record(takeParked() + [.init(flags: .mark, data: Array("dm-log-writes-end".utf8))])
    _ = try? await opened.device.flush()
  }

  var status: String {
    "\(entries) \(next.rawValue - 1)" + (isRecording ? "" : " logging_disabled")
  }
}
