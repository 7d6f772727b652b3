import BlockIO
import Kcopyd

// What is durable, and into the map only when it is.

extension ImagingJob {
  func keepSaving() async {
    var last = loop.now
    while !isOver {
      await loop.sleep(for: .milliseconds(50))
      if wasCancelled { for copy in copies.values { copy.cancel() } }
      guard !isOver, last.duration(to: loop.now) >= options.saveInterval else { continue }
      await flushAndSave()
      last = loop.now
    }
  }

  /// Flushes all destinations, and then writes into the map what is durable on all of them.
  func flushAndSave() async {
    guard options.flushes else { return }
    await withDiscardingTaskGroup { group in
      for index in ledger.alive {
        group.addTask(executorPreference: loop) { await self.flush(index) }
      }
    }
    await save()
  }

  private func flush(_ index: Int) async {
    // What has been written before the flush starts is what it covers.
    let written = ledger.destinations[index].written
    do throws(IOFailure) {
      try await targets[index].device.flush()
      ledger.note(durable: written, at: index)
    } catch {
      ledger.note(failedFlush: error, of: index)
    }
  }

  func save() async {
    guard let keeping else { return }
    await takeSamples()
    let (mapfile, record) = state(for: keeping)
    do throws(IOFailure) {
      try await keeping.store.save(mapfile, record)
      mapFailure = nil
    } catch {
      mapFailure = error
    }
  }

  /// What the files say at this moment.
  private func state(for keeping: Keeping) -> (Mapfile, ProgressRecord) {
    var map = order.map
    let durable = ledger.durableEverywhere
    for range in map.sectors([.finished], in: source.sectors).subtracting(durable).ranges {
      map.set(range, .nonTried)
    }
    var mapfile = Mapfile(
      comments: keeping.comments(), blocks: map.blocks(byteCount: source.device.byteCount))
    switch order {
    case .rescue(let plan):
      mapfile.phase = plan.phase
      mapfile.pass = plan.pass
      // Reads under way, and what isn't durable, lie before where the plan is: other programs may
      // take the last pass as done up to there.
      let rest = map.first([.nonTried], in: source.sectors)?.sectors.lowerBound
      let isSweep = plan.phase == .copying && plan.pass == RescuePlan.copyingPasses
      let position = isSweep ? rest ?? plan.position : plan.position
      mapfile.position = min(position.bytes, source.device.byteCount)
    case .straight(let plan):
      mapfile.phase = plan.isFinished ? .finished : .copying
      mapfile.position = source.sector.bytes
    }
    var record = keeping.record
    record.samples = samples
    for index in targets.indices {
      let old = record.destinations[index]
      record.destinations[index] = .init(
        name: old.name, identity: old.identity, durable: ledger.destinations[index].durable)
    }
    return (mapfile, record)
  }

  private func takeSamples() async {
    let known = Set(samples.map(\.sector))
    let map = order.map
    for sector in SourceSample.places(in: source.sectors)
    where !known.contains(sector.rawValue) && map[sector] == .finished {
      let pages = await pool.take(1)
      if let sample = await SourceSample.take(source.device, sector, pages.buffer) {
        samples.append(sample)
      }
      pages.giveBack()
    }
  }
}
