import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots
import Synchronization

extension SnapshotWorld {
  // MARK: Lanes

  func run(_ lane: [SnapshotPlan.Step]) async throws {
    for step in lane {
      if step.delay > .zero { await loop.sleep(for: step.delay) }
      if power.isOff { return }
      try throwReported()
      switch step.operation {
      case .write(let number, let sectors, let isDurable):
        try await write(number, sectors, isDurable)
      case .read(let number, let sectors): try await read(number, sectors)
      case .flush(let number): try await flush(number)
      case .discard(let number, let sectors): try await discard(number, sectors)
      case .status(let number, let sectors, let limit):
        try await status(number, sectors, limit)
      }
    }
  }

  private func write(_ number: Int, _ sectors: Range<Sector>, _ isDurable: Bool) async throws {
    guard let device = device(number) else { return }
    let version = model.withLock { $0.beginWrite(number, sectors.indices) }
    let bytes = version.bytes(sectors)
    do {
      try await device.put(bytes, at: sectors.lowerBound, options: isDurable ? .durable : [])
      model.withLock { $0.endWrite(version, isDone: true, isDurable: isDurable) }
      sabotage.afterWrite(disks, number, sectors)
    } catch let error as IOFailure {
      model.withLock { $0.endWrite(version, isDone: false, isDurable: isDurable) }
      try await explain(error, .write, of: number)
    }
  }

  private func read(_ number: Int, _ sectors: Range<Sector>) async throws {
    guard let device = device(number) else { return }
    let read = model.withLock { $0.beginRead(number, sectors.indices) }
    do {
      let bytes = try await device.contents(sectors)
      try model.withLock { try $0.endRead(read, bytes) }
    } catch let error as IOFailure {
      try await explain(error, .read, of: number)
    }
  }

  private func flush(_ number: Int) async throws {
    guard let device = device(number) else { return }
    let flush = model.withLock { $0.beginFlush(number) }
    do {
      try await device.flush()
      model.withLock { $0.endFlush(flush) }
    } catch {
      try await explain(error, .flush, of: number)
    }
  }

  private func discard(_ number: Int, _ sectors: Range<Sector>) async throws {
    let parameters = plan.snapshots[number - 1].parameters
    guard let device = device(number), parameters.discardZeroesCow else { return }
    let discard = model.withLock {
      $0.beginDiscard(
        number, sectors.indices, isPassedDown: parameters.discardPassdownOrigin)
    }
    do {
      try await device.discard(sectors)
      model.withLock { $0.endDiscard(discard, isDone: true) }
    } catch {
      model.withLock { $0.endDiscard(discard, isDone: false) }
      try await explain(error, .discard, of: number)
    }
  }

  private func status(_ number: Int, _ sectors: Range<Sector>, _ limit: Int) async throws {
    guard let device = device(number) else { return }
    do {
      try await checkStatus(of: device, number, sectors, limit)
    } catch let error as IOFailure {
      // Between two questions another one may have taken its place.
      guard self.device(number) === device else { return }
      try await explain(error, .blockStatus, of: number)
    }
  }

  /// Asks for all extents, so many at a time, which must follow each other.
  func checkStatus(
    of device: any BlockDevice, _ number: Int, _ sectors: Range<Sector>, _ limit: Int
  ) async throws {
    let read = model.withLock { $0.beginRead(number, sectors.indices) }
    var extents: [BlockExtent] = []
    var rest = sectors
    while !rest.isEmpty {
      let found = try await device.blockStatus(rest, limit: limit)
      try ensure(1...limit ~= found.count, "\(found.count) extents instead of 1 to \(limit)")
      for extent in found {
        try ensure(
          extent.sectors.lowerBound == rest.lowerBound && !extent.sectors.isEmpty
            && extent.sectors.upperBound <= rest.upperBound,
          "the extent \(extent.sectors) doesn't follow the one before; \(rest) is left")
        rest = extent.sectors.upperBound..<rest.upperBound
      }
      extents += found
    }
    try model.withLock { try $0.endStatus(read, extents) }
  }

  // MARK: Lives

  func live(_ index: Int, _ life: [SnapshotPlan.Change]) async throws {
    for change in life {
      await loop.sleep(for: change.delay)
      if power.isOff { return }
      switch change.kind {
      case .add: try await add(index)
      case .pause(let duration): try await pause(index, duration)
      case .handOver: try await handOver(index)
      case .merge: try await merge(index)
      case .remove: await remove(index)
      case .enlarge(let size): disks[index + 1].enlarge(to: size)
      }
    }
  }

  private func add(_ index: Int) async throws {
    let hasMerge =
      plan.phases.contains { $0.merge != nil }
      || plan.phases.contains {
        $0.lives.joined().contains { if case .merge = $0.kind { true } else { false } }
      }
    let isFree = slots.withLock { slots in
      guard case .absent = slots[index].state, !(slots[index].wasBegun && hasMerge) else {
        return false
      }
      slots[index].wasBegun = true
      return true
    }
    guard isFree else { return }
    let snapshot = plan.snapshots[index]
    do throws(SnapshotError) {
      let device = try await origin.addSnapshot(
        cow: devices[index + 1], parameters: snapshot.parameters, sectorCount: snapshot.count,
        onEvent: { [weak self] in self?.note($0, of: index) })
      let resume = model.withLock { $0.beginResume() }
      do throws(SnapshotError) {
        try await device.resume()
      } catch {
        await device.remove()
        throw error
      }
      model.withLock { $0.endResume(resume, index + 1) }
      setState(index, .live(device))
    } catch {
      switch error {
      case .io: return
      case .state where mergingIndex != nil: return
      default: try ensure(power.isOff, "snapshot \(index) can't be added: \(error)")
      }
    }
  }

  private func pause(_ index: Int, _ duration: Duration) async throws {
    do throws(SnapshotError) {
      switch slots.withLock({ $0[index].state }) {
      case .live(let device):
        setState(index, .changing)
        await device.suspend()
        await loop.sleep(for: duration)
        try await device.resume()
        setState(index, .live(device))
      case .merging(let device):
        await device.suspend()
        await loop.sleep(for: duration)
        try await device.resume()
      default: return
      }
    } catch {
      throw CheckFailure("snapshot \(index) can't be resumed: \(error)")
    }
  }

  private func handOver(_ index: Int) async throws {
    guard case .live(let device) = slots.withLock({ $0[index].state }) else { return }
    let snapshot = plan.snapshots[index]
    setState(index, .changing)
    await device.suspend()
    do throws(SnapshotError) {
      let next = try await origin.addSnapshot(
        cow: devices[index + 1], parameters: snapshot.parameters, sectorCount: snapshot.count,
        onEvent: { [weak self] in self?.note($0, of: index) })
      try await next.resume()
      await device.remove()
      setState(index, .live(next))
    } catch {
      throw CheckFailure("snapshot \(index) can't be handed over: \(error)")
    }
  }

  private func merge(_ index: Int) async throws {
    guard case .live(let device) = slots.withLock({ $0[index].state }) else { return }
    // What others showed at their points in time must be durable before it is changed.
    let flush = model.withLock { $0.beginFlush(0) }
    guard (try? await origin.device.flush()) != nil else { return }
    model.withLock { $0.endFlush(flush) }
    guard case .live = slots.withLock({ $0[index].state }) else { return }
    let snapshot = plan.snapshots[index]
    setState(index, .changing)
    await device.suspend()
    do throws(SnapshotError) {
      let merge = try await origin.addMerge(
        cow: devices[index + 1], parameters: snapshot.parameters, sectorCount: snapshot.count,
        onEvent: { [weak self] in self?.note($0, of: index) })
      model.withLock { $0.beginMerge() }
      try await merge.resume()
      if case .invalid = await merge.status.condition {
        model.withLock { $0.endMerge(nil) }
        await merge.remove()
        return setState(index, .gone)
      }
      model.withLock { $0.endMerge(index + 1) }
      setState(index, .merging(merge))
      await device.remove()
    } catch {
      throw CheckFailure("snapshot \(index) can't be merged: \(error)")
    }
  }

  private func remove(_ index: Int) async {
    guard case .live(let device) = slots.withLock({ $0[index].state }) else { return }
    setState(index, .gone)
    model.withLock { $0.drop(index + 1) }
    await device.remove()
  }
}
