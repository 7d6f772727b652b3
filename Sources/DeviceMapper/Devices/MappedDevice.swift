public import BlockIO
import Mirrors
import Synchronization
import SystemPackage

/// A device whose requests go where its table says, and wait while it is suspended.
///
/// Got from ``DeviceMapper/open(_:)``. It stays the same over all changes of its table: size and
/// limits follow the live one. Without a live table every request fails with `EIO`.
public final class MappedDevice: BlockDevice {
  /// The number by which the mapper knows it: the minor of `major:minor`.
  public let minor: Int
  /// Whether it was made read-only.
  public let isReadOnly: Bool

  let gate: RequestGate
  private let loop: IOLoop
  private let shape: Mutex<Shape>
  private let faults: GateFaults

  private struct Shape {
    var name: String
    var sectorCount = Sector.zero
    var limits = DeviceLimits()
  }

  init(_ name: String, minor: Int, isReadOnly: Bool, faults: GateFaults, on loop: IOLoop) {
    self.minor = minor
    self.isReadOnly = isReadOnly
    self.loop = loop
    self.faults = faults
    shape = Mutex(Shape(name: name))
    gate = RequestGate(faults: faults, on: loop)
  }

  public var name: String { shape.withLock { $0.name } }
  public var sectorCount: Sector { shape.withLock { $0.sectorCount } }
  public var limits: DeviceLimits { shape.withLock { $0.limits } }

  func rename(to name: String) { shape.withLock { $0.name = name } }

  /// Makes a table the live one. On the loop.
  func setTable(_ table: MappedTable?) {
    shape.withLock { shape in
      shape.sectorCount = table?.sectorCount ?? .zero
      shape.limits = table?.limits ?? DeviceLimits()
    }
    gate.setTable(table)
  }

  /// The device whose resume a request would wait for now: this one, or one that it stands on; nil:
  /// it wouldn't have to wait. On the loop.
  var suspendedHere: MappedDevice? {
    var seen: Set<Int> = []
    var next = [self]
    while let device = next.popLast() {
      guard seen.insert(device.minor).inserted else { continue }
      let (isClosed, table) = device.gate.position
      if isClosed { return device }
      next += table?.devices.compactMap { $0.device as? MappedDevice } ?? []
    }
    return nil
  }

  // MARK: Requests

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await perform(.read(sectors, buffer))
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await perform(.write(sectors, buffer, options))
  }

  public func readNow(_ sectors: Range<Sector>, into buffer: IOBuffer) -> Bool {
    performNow(.read(sectors, buffer))
  }

  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) -> Bool {
    !isReadOnly && performNow(.write(sectors, buffer, options))
  }

  /// Does a request that belongs to one target, if this can do it without waiting.
  private func performNow(_ request: MappedRequest) -> Bool {
    guard let pass = gate.enterNow() else { return false }
    let start = LoopInstant.monotonic
    // One that fails is asked for again, as all that isn't done, and counted and accounted then.
    let isDone = (try? pass.table?.performNow(request)) ?? false
    gate.leave(
      isDone ? request : nil, latency: start.duration(to: .monotonic), isDone: isDone)
    return isDone
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await perform(.writeZeroes(sectors, mayUnmap: mayUnmap))
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await perform(.discard(sectors))
  }

  public func flush() async throws(IOFailure) { try await perform(.flush) }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    guard loop.isCurrent else {
      return try await onLoop { () async throws(IOFailure) in
        try await self.blockStatus(sectors, limit: limit)
      }
    }
    let pass: RequestGate.Pass
    if let now = gate.enterNow() {
      pass = now
    } else {
      pass = try await deferred(.blockStatus, sectors)
    }
    defer { gate.leave(nil, latency: .zero, isDone: true) }
    let table = try table(of: pass, .blockStatus, sectors)
    return try await table.blockStatus(sectors, limit: limit)
  }

  private func perform(_ request: MappedRequest) async throws(IOFailure) {
    guard loop.isCurrent else {
      return try await onLoop { () async throws(IOFailure) in try await self.perform(request) }
    }
    while true {
      // Not suspended: no change of actors, which would take longer than starting the request.
      let pass: RequestGate.Pass
      if let now = gate.enterNow() {
        pass = now
      } else {
        pass = try await deferred(request.operation, request.sectors)
        if faults.contains(.dropsDeferred) {
          return gate.leave(request, latency: .zero, isDone: true)
        }
      }
      let start = loop.now
      do throws(IOFailure) {
        let table = try table(of: pass, request.operation, request.sectors)
        if request.isWriting, isReadOnly {
          throw IOFailure(
            request.operation, name, request.sectors, errno: .readOnlyFileSystem)
        }
        try await table.perform(request)
        return gate.leave(request, latency: start.duration(to: loop.now), isDone: true)
      } catch {
        if error.isPushedBack {
          // Over for the table that is being replaced; the gate lets it in again after the resume.
          gate.leave(nil, latency: .zero, isDone: false)
          continue
        }
        gate.leave(request, latency: start.duration(to: loop.now), isDone: false)
        throw IOFailure(
          request.operation, name, error.sectors ?? request.sectors, errno: error.errno,
          detail: error.device == name ? error.detail : error.description)
      }
    }
  }

  /// Waits for the resume, as long as the task has patience.
  private func deferred(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>?
  ) async throws(IOFailure) -> RequestGate.Pass {
    if let pass = await gate.enter() { return pass }
    throw .stillSuspended(operation, name, sectors)
  }

  /// The live table, which must reach as far as the request.
  private func table(
    of pass: RequestGate.Pass, _ operation: IOFailure.Operation, _ sectors: Range<Sector>?
  ) throws(IOFailure) -> MappedTable {
    guard let table = pass.table else {
      throw IOFailure(
        operation, name, sectors, errno: .ioError, detail: "the device has no live table")
    }
    if let sectors, sectors.upperBound > table.sectorCount {
      throw .beyondEnd(operation, name, sectors, sectorCount: table.sectorCount)
    }
    return table
  }

  /// Does something on the loop for a caller that runs elsewhere.
  private func onLoop<R: Sendable>(
    _ body: @escaping @Sendable () async throws(IOFailure) -> R
  ) async throws(IOFailure) -> R {
    let task = Task(executorPreference: loop) { () async -> Result<R, IOFailure> in
      do throws(IOFailure) { return .success(try await body()) } catch { return .failure(error) }
    }
    return try await task.value.get()
  }
}

extension IOFailure {
  /// Whether a target has pushed the request back, to be done again after the next resume.
  public var isPushedBack: Bool { isRequeued }

  /// Has a request done again after the next resume.
  public static func pushedBack(_ name: String) -> IOFailure { .requeued(name) }
}
