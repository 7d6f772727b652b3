import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Synchronization

extension MirrorWorld {
  // MARK: Lanes

  func run(_ lane: [MirrorPlan.Step]) async throws {
    for step in lane {
      if step.delay > .zero { await loop.sleep(for: step.delay) }
      if power.isOff { return }
      try throwReported()
      switch step.operation {
      case .write(let sectors, let isDurable): try await write(sectors, isDurable)
      case .read(let sectors): try await read(sectors)
      case .flush: try await flush()
      case .discard(let sectors): try await discard(sectors)
      }
    }
  }

  private func write(_ sectors: Range<Sector>, _ isDurable: Bool) async throws {
    let version = model.withLock { $0.begin(sectors.indices) }
    let bytes = version.bytes(sectors)
    try await repeatedly(.write) { mirror in
      try await mirror.put(bytes, at: sectors.lowerBound, options: isDurable ? .durable : [])
      guard self.isHeard else { return }
      self.model.withLock { $0.end(version, isDurable: isDurable) }
      self.sabotage.afterWrite(self.legs, sectors)
    }
  }

  private func read(_ sectors: Range<Sector>) async throws {
    guard let mirror = await ready() else { return }
    let read = model.withLock { $0.beginRead(sectors.indices) }
    do {
      let bytes = try await mirror.contents(sectors)
      try model.withLock { try $0.endRead(read, bytes) }
    } catch let error as IOFailure {
      try explain(error, .read)
    }
  }

  private func flush() async throws {
    try await repeatedly(.flush) { mirror in
      let flush = self.model.withLock { $0.beginFlush() }
      try await mirror.flush()
      if self.isHeard { self.model.withLock { $0.endFlush(flush) } }
    }
  }

  private func discard(_ sectors: Range<Sector>) async throws {
    guard let mirror = await ready() else { return }
    let version = model.withLock { $0.begin(sectors.indices, isDiscard: true) }
    do {
      try await mirror.discard(sectors)
      guard isHeard else { return }
      model.withLock { $0.end(version) }
    } catch {
      try explain(error, .discard)
    }
  }

  /// Whether there is anyone to hear that a request went well. Without power there isn't – while the
  /// mirror, which goes on for a moment here, takes it for a failure of the legs that weren't done
  /// yet, and the others may be enough for it.
  private var isHeard: Bool { !power.isOff }

  /// A request that is made again if the mirror gives it back.
  private func repeatedly(
    _ operation: IOFailure.Operation, _ body: (MirrorDevice) async throws -> Void
  ) async throws {
    for _ in 0..<8 {
      guard let mirror = await ready() else { return }
      do {
        return try await body(mirror)
      } catch let error as IOFailure {
        guard error.isRequeued else { return try explain(error, operation) }
        try ensure(holds || power.isOff, "a request was given back")
      }
    }
  }

  // MARK: Changes

  /// What the plan says, and then what is needed for the lanes to come to their end.
  func change(_ changes: [MirrorPlan.Change]) async throws {
    for change in changes {
      await loop.sleep(for: change.delay)
      if power.isOff { break }
      switch change.kind {
      case .pause(let duration, let requeuing): try await pause(duration, requeuing: requeuing)
      case .heal: setFaults(nil)
      case .status: try await status()
      case .compare: break
      }
    }
    var rounds = 0
    while now.withLock({ $0.lanes > 0 }), !power.isOff {
      await loop.sleep(for: .milliseconds(2))
      rounds = await mirror.status.held > 0 ? rounds + 1 : 0
      // Someone has to do something about the writes that wait.
      if rounds > 3 { try await replace() }
    }
    if power.isOff { await suspend() }
  }

  private func pause(_ duration: Duration, requeuing: Bool) async throws {
    await suspend(requeuing: requeuing)
    await loop.sleep(for: duration)
    if power.isOff { return }
    try await status()
    await resume()
  }

  /// Gives the mirror another table if its log has failed; otherwise a new start will do.
  private func replace() async throws {
    setFaults(nil)
    let hasLog = await mirror.status.log.letter == "A"
    await suspend(requeuing: true)
    if power.isOff { return }
    guard !hasLog else { return await resume() }
    do { try await open() } catch {
      // It isn't made without its sidecar, which needs power.
      guard power.isOff else { throw error }
    }
  }
}
