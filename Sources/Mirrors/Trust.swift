import BlockIO

// Which legs hold what was acknowledged, in regions that are out of sync.

extension Mirror {
  /// The leg that has everything which was acknowledged for a region that isn't in sync.
  func trustedLeg(of region: Region) -> Int {
    guard parameters.conduct.tracksStaleLegs else { return defaultLeg }
    let holders = trust[region] ?? [firstTrusted]
    if holders.contains(defaultLeg), legs[defaultLeg].isGood { return defaultLeg }
    let good = holders.filter { legs[$0].isGood }
    return (good.isEmpty ? holders : good).min() ?? defaultLeg
  }

  /// Legs that missed a write: what was written is on the others only.
  func distrust(_ failed: [Int], in touched: Range<Region>) {
    for region in touched {
      let holders = log.isInSync(region) ? Set(legs.indices) : holders(of: region)
      let left = holders.subtracting(failed)
      // Nobody has it: then it was never acknowledged, and any leg will do.
      setHolders(left.isEmpty ? holders : left, of: region)
    }
  }

  /// The legs that hold everything.
  func holders(of region: Region) -> Set<Int> { trust[region] ?? [firstTrusted] }

  /// Goes back to what was before a write that failed on its only leg, unless more has happened.
  func restoreHolders(_ before: Set<Int>, of region: Region, after index: Int) {
    if !before.isEmpty, holders(of: region) == [index] { setHolders(before, of: region) }
  }

  /// From now on these legs alone hold what was acknowledged there.
  func setHolders(_ holders: Set<Int>, of region: Region) {
    // What is true without being said isn't kept: a large mirror that is new is all of that.
    let kept = holders == [firstTrusted] ? nil : holders
    guard trust[region] != kept else { return }
    trust[region] = kept
    trustChanges += 1
  }

  /// The region is the same on all legs.
  func forgetHolders(of region: Region) {
    // A change as any other: what the sidecar said before is wrong once the first leg alone has
    // what is written from now on.
    if trust.removeValue(forKey: region) != nil { trustChanges += 1 }
  }

  // MARK: Over a restart

  /// Makes durable what has changed; calls that come meanwhile share the next time.
  func saveTrust() async {
    guard let sidecar, parameters.conduct.tracksStaleLegs else { return }
    let mine = trustChanges
    while savedTrustChanges < mine {
      if isSavingTrust {
        await trustSaved.wait { isSavingTrust }
        continue
      }
      isSavingTrust = true
      let covered = trustChanges
      do throws(IOFailure) {
        try await sidecar.write(trustRuns)
      } catch {
        // The mirror goes on as one without a sidecar would.
        onEvent(.sidecarFailed(error.description))
      }
      savedTrustChanges = covered
      isSavingTrust = false
      trustSaved.open()
    }
  }

  private var trustRuns: [Sidecar.Run] {
    var runs: [Sidecar.Run] = []
    for (region, legs) in trust.sorted(by: { $0.key < $1.key }) {
      let holders = legs.reduce(0 as UInt64) { $0 | 1 << UInt64($1) }
      if let last = runs.last, last.regions.upperBound == region, last.holders == holders {
        runs[runs.count - 1].regions = last.regions.lowerBound..<region.advanced(by: 1)
      } else {
        runs.append(.init(regions: region..<region.advanced(by: 1), holders: holders))
      }
    }
    return runs
  }

  /// Forgets what the sidecar says of regions that are the same everywhere: it is from before that.
  func forgetWhatIsInSync() {
    for region in trust.keys where log.isInSync(region) { forgetHolders(of: region) }
  }

  /// Takes over what the sidecar says.
  ///
  /// - Returns: whether there is one.
  func loadTrust() async throws(MirrorError) -> Bool {
    guard let sidecar else { return false }
    for run in try await sidecar.read() {
      let holders = Set(legs.indices.filter { run.holders >> UInt64($0) & 1 == 1 })
      guard !holders.isEmpty else {
        throw .state(
          "'\(sidecar.device.name)' had no room for all that differs: nothing says which leg is"
            + " right in regions \(run.regions.lowerBound.rawValue) to"
            + " \(run.regions.upperBound.rawValue - 1)")
      }
      for region in run.regions where region.rawValue < log.regionCount {
        trust[region] = holders
      }
    }
    return true
  }
}
