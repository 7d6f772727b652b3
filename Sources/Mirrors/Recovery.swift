import BlockIO
import Kcopyd

// Bringing regions into sync: from a leg that is trusted to all others, several at once.

extension Mirror {
  /// Copies everything that is out of sync, unless that is going on.
  func startRecovery() {
    guard mayRecover, recoveries.count == 0 else { return }
    for _ in 0..<max(1, parameters.conduct.recoveriesInFlight) {
      recoveries.add(1)
      inBackground { await self.recoverAll() }
    }
  }

  private func recoverAll() async {
    defer { recoveries.remove(1) }
    let size = parameters.regionSize.sectors
    let most = max(1, Int(parameters.conduct.recoveryPiece.rawValue / size.rawValue))
    while mayRecover, let work = log.nextRecoveryWork(most) {
      await hold(work)
      let source = trustedLeg(of: work.lowerBound)
      let end = work.drop { trustedLeg(of: $0) == source }.startIndex
      if end < work.upperBound {
        // What is to be copied from another leg comes next.
        release(end..<work.upperBound)
        log.putBack(end..<work.upperBound)
      }
      let mine = work.lowerBound..<end
      // Whoever flushes a leg from here on may be told of what is copied to it now.
      let failedFlushes = failedFlushes
      let recovered = await recover(mine, from: source)
      // The next ones are copied while the legs are flushed.
      recoveries.add(1)
      settling.add(1)
      inBackground { await self.settle(mine, recovered, since: failedFlushes) }
      await settling.waitBelowLimit()
    }
  }

  /// Regions were copied, or weren't: these come into sync once that is durable, or stay out of it.
  private func settle(
    _ work: Range<Region>, _ recovered: [Region], since failedFlushes: Int
  ) async {
    defer {
      recoveries.remove(1)
      settling.remove(1)
    }
    note(work, recovered)
    // One flush of the legs and one log write for all that end at about the same time.
    await flushLog()
    if self.failedFlushes == failedFlushes || !parameters.conduct.remembersFailedRecovery {
      for region in recovered {
        log.setSync(region, true)
        forgetHolders(of: region)
      }
    } else {
      // A leg may have lost what was copied to it.
      for region in recovered { lose(region) }
    }
    release(work)
    noteIfInSync()
  }

  /// Copies regions.
  ///
  /// - Returns: those that are the same on all legs now.
  private func recover(_ work: Range<Region>, from source: Int) async -> [Region] {
    let sectors = parameters.regionSize.sectors(of: work).clamped(to: .zero..<sectorCount)
    let targets = legs.indices.filter { $0 != source }
    // Without error handling what can't be read becomes zeros, as in the kernel.
    let isStrict = parameters.handlesErrors || parameters.conduct.remembersFailedRecovery
    let failures = await copy(
      sectors, from: source, to: targets,
      options: [isStrict ? .dropFailedDestinations : .ignoreErrors, .oneOfMany])
    if let failure = failures.read { mark(source, .sync, failure) }
    for (index, failure) in failures.writes { mark(index, .sync, failure) }
    return work.filter { region in
      let place = parameters.regionSize.sectors(of: region..<region.advanced(by: 1))
      return failures.missing.intersection(RangeSet(place)).isEmpty
    }
  }

  /// What is known now of regions that were copied, or weren't.
  private func note(_ work: Range<Region>, _ recovered: [Region]) {
    for region in recovered { log.clear(region) }
    guard recovered.count < work.count else { return }
    let good = Set(recovered)
    for region in work where !good.contains(region) {
      // The kernel calls them in sync all the same, in memory, when errors aren't handled.
      let isForgotten = !parameters.handlesErrors && !parameters.conduct.remembersFailedRecovery
      log.setSync(region, isForgotten)
      if isForgotten { forgetHolders(of: region) }
    }
    planRetry()
  }

  /// Tries again what isn't in sync, after a while, which grows each time.
  func planRetry() {
    guard mayRecover, let delay = retryDelay, !isRetryPlanned else { return }
    isRetryPlanned = true
    retryDelay = min(delay * 2, .seconds(60))
    inBackground { await self.retry(after: delay) }
  }

  private func retry(after delay: Duration) async {
    // In slices, so that suspending needn't wait for it.
    var left = delay
    while left > .zero, mayRecover {
      let slice = min(left, .milliseconds(100))
      await loop.sleep(for: slice)
      left -= slice
    }
    isRetryPlanned = false
    guard mayRecover else { return }
    await recoveries.waitForNone()
    log.startOver()
    startRecovery()
    // A leg may have failed without anything being out of sync for it.
    noteIfInSync()
  }

  /// What a copy between legs came to.
  struct LegCopy {
    var read: IOFailure?
    var writes: [(leg: Int, failure: IOFailure)] = []
    /// Sectors of the mirror that aren't on every target.
    var missing = RangeSet<Sector>()
  }

  /// Copies sectors from one leg to others.
  func copy(
    _ sectors: Range<Sector>, from source: Int, to targets: [Int], options: CopyOptions
  ) async -> LegCopy {
    var outcome = LegCopy()
    let reading = begin(.copyFrom, source, sectors)
    let writing = targets.map { begin(.copyTo, $0, sectors) }
    defer {
      let isRead = outcome.read == nil && (outcome.missing.isEmpty || !outcome.writes.isEmpty)
      end(reading, isDone: isRead)
      for request in writing {
        end(request, isDone: isRead && !outcome.writes.contains { $0.leg == request.leg })
      }
    }
    do throws(KcopydError) {
      let result = try await client.copy(
        from: legs[source].region(of: sectors), to: targets.map { legs[$0].region(of: sectors) },
        options: options)
      guard !result.isComplete else { return outcome }
      outcome.read = result.readFailures.entries.first?.failure
      for (index, destination) in result.destinations.enumerated() {
        if let failure = destination.failures.entries.first?.failure {
          outcome.writes.append((targets[index], failure))
        }
        for range in destination.missing.ranges {
          outcome.missing.insert(range.shifted(by: sectors.lowerBound))
        }
      }
      for range in result.readFailures.sectors.ranges {
        outcome.missing.insert(range.shifted(by: sectors.lowerBound))
      }
    } catch {
      outcome.missing.insert(sectors)
    }
    return outcome
  }
}
