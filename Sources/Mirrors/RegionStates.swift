import BlockIO

// Regions with something under way, and those that went idle.

extension Mirror {
  func state(of region: Region) -> RegionState {
    if let state = regions[region] { return state }
    let state = RegionState()
    regions[region] = state
    return state
  }

  /// A region of these sectors that is being copied or compared, if there is one.
  func recovering(_ sectors: Range<Sector>) -> RegionState? {
    parameters.regionSize.regions(touching: sectors).lazy
      .compactMap { self.regions[$0] }.first(where: \.isRecovering)
  }

  /// Writes to these regions begin: their bits are cleared, durably with the next flush.
  func begin(_ touched: Range<Region>) {
    for region in touched {
      state(of: region).writes += 1
      idleSince[region] = nil
      log.mark(region)
    }
  }

  func end(_ touched: Range<Region>) {
    for region in touched {
      let state = state(of: region)
      state.writes -= 1
      guard state.writes == 0 else { continue }
      state.changed.open()
      if !state.isRecovering { regions[region] = nil }
      wentIdle(region)
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
      if state.writes == 0 { regions[region] = nil }
      state.changed.open()
    }
  }

  // MARK: Cleaning

  /// The last write of a region is over: it is the same on all legs, or out of sync.
  func wentIdle(_ region: Region) {
    guard log.isInSync(region) else { return }
    if distrustsIdle { return lose(region) }
    let now = loop.now
    idleSince[region] = now
    guard queued.insert(region).inserted else { return }
    idle.append((region, now))
    guard !isCleaning else { return }
    isCleaning = true
    Task { await withTaskExecutorPreference(loop) { await self.cleanIdle() } }
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
        if let since = idleSince[entry.region], since > entry.since {
          // Written again meanwhile: it counts from the end of that.
          idle.append((entry.region, since))
        } else {
          queued.remove(entry.region)
          if idleSince[entry.region] != nil { cleanIfIdle(entry.region) }
        }
      }
      // Suspended: the log may be another mirror's by now.
      guard isResumed else { break }
      await flushLog()
    }
    isCleaning = false
  }

  func cleanIfIdle(_ region: Region) {
    idleSince[region] = nil
    if regions[region] == nil, log.isInSync(region), !distrustsIdle { log.clear(region) }
  }
}
