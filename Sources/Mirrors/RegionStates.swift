import BlockIO
import DequeModule

// Regions with something under way, and those that went idle.

/// A region that is in use, or waits to be called clean.
final class RegionState {
  /// Writes under way.
  var writes = 0
  /// Whether one of them has been acknowledged that is on a single leg.
  var isOnOneLeg = false
  /// Whether it is being copied, or compared: writes wait.
  var isRecovering = false
  /// Since when nothing has been written to it, if it is to be called clean.
  var idleSince: LoopInstant?
  /// Whether it is in the queue of those.
  var isQueued = false
  let changed = Gate()

  var isInUse: Bool { writes > 0 || isRecovering }
}

extension Mirror {
  func state(of region: Region) -> RegionState {
    if let state = regions[region] { return state }
    let state = RegionState()
    regions[region] = state
    return state
  }

  private func forgetUnlessNeeded(_ region: Region, _ state: RegionState) {
    if !state.isInUse, !state.isQueued { regions[region] = nil }
  }

  /// A region of these sectors that is being copied or compared, if there is one.
  func recovering(_ sectors: Range<Sector>) -> RegionState? {
    parameters.regionSize.regions(touching: sectors).lazy
      .compactMap { self.regions[$0] }.first(where: \.isRecovering)
  }

  /// Writes to these regions begin: their bits are cleared, durably with the next flush.
  func begin(_ touched: Range<Region>) {
    for region in touched {
      let state = state(of: region)
      state.writes += 1
      state.idleSince = nil
      log.mark(region)
    }
  }

  func end(_ touched: Range<Region>) {
    for region in touched {
      let state = state(of: region)
      state.writes -= 1
      guard state.writes == 0 else { continue }
      state.isOnOneLeg = false
      state.changed.open()
      wentIdle(region, state, at: loop.now)
      forgetUnlessNeeded(region, state)
    }
  }

  /// Something was written there within one step: as ``begin(_:)`` and ``end(_:)``.
  func noteWritten(_ touched: Range<Region>, at now: LoopInstant) {
    for region in touched {
      let state = state(of: region)
      log.mark(region)
      guard !state.isInUse else { continue }
      wentIdle(region, state, at: now)
      forgetUnlessNeeded(region, state)
    }
  }

  /// Keeps writes off these regions and waits until none is under way.
  func hold(_ touched: Range<Region>) async {
    for region in touched {
      while true {
        let busy = state(of: region)
        guard busy.isRecovering else { break }
        await busy.changed.wait { busy.isRecovering }
      }
      let state = state(of: region)
      state.isRecovering = true
      await state.changed.wait { state.writes > 0 }
    }
  }

  func release(_ touched: Range<Region>) {
    for region in touched {
      guard let state = regions[region] else { continue }
      state.isRecovering = false
      forgetUnlessNeeded(region, state)
      state.changed.open()
    }
  }

  // MARK: Cleaning

  /// A region that was held, and maybe written to, is free again.
  func wentIdle(_ region: Region) {
    let state = state(of: region)
    wentIdle(region, state, at: loop.now)
    forgetUnlessNeeded(region, state)
  }

  /// The last write of a region is over: it is the same on all legs, or out of sync.
  private func wentIdle(_ region: Region, _ state: RegionState, at now: LoopInstant) {
    guard log.isInSync(region) else { return }
    if distrustsIdle { return lose(region) }
    state.idleSince = now
    guard !state.isQueued else { return }
    state.isQueued = true
    idle.append((region, now))
    guard !isCleaning else { return }
    isCleaning = true
    inBackground { await self.cleanIdle() }
  }

  /// Sets the bits of regions that have been idle for a while, all that are due at once.
  private func cleanIdle() async {
    let delay = parameters.conduct.cleaningDelay
    while let first = idle.first {
      let due = first.since.advanced(by: delay)
      if loop.now < due { await loop.sleep(for: loop.now.duration(to: due)) }
      let now = loop.now
      while let entry = idle.first, entry.since.advanced(by: delay) <= now {
        idle.removeFirst()
        let state = state(of: entry.region)
        if let since = state.idleSince, since > entry.since {
          // Written again meanwhile: it counts from the end of that.
          idle.append((entry.region, since))
        } else {
          cleanIfIdle(entry.region, state)
        }
      }
      // Suspended: the log may be another mirror's by now.
      guard isResumed else { break }
      await flushLog()
    }
    isCleaning = false
  }

  /// Everything that is idle is to be called clean with the next flush.
  func cleanAllIdle() {
    while let entry = idle.popFirst() { cleanIfIdle(entry.region, state(of: entry.region)) }
  }

  /// What has left the queue is to be called clean, unless it is in use.
  private func cleanIfIdle(_ region: Region, _ state: RegionState) {
    state.isQueued = false
    if state.idleSince != nil, !state.isInUse, log.isInSync(region), !distrustsIdle {
      log.clear(region)
    }
    state.idleSince = nil
    forgetUnlessNeeded(region, state)
  }
}
