public import BlockIO
import Kcopyd

/// What comparing the legs of a mirror has found.
public struct MirrorComparison: Sendable {
  /// Sectors of the mirror that were compared.
  public internal(set) var compared = Sector.zero
  /// Sectors that differ from the trusted leg, by leg.
  public internal(set) var differences: [Int: RangeSet<Sector>] = [:]
  /// Sectors of regions that are out of sync: they are expected to differ and weren't compared.
  public internal(set) var outOfSync = RangeSet<Sector>()
  /// Sectors that couldn't be read from one of the legs.
  public internal(set) var unreadable = RangeSet<Sector>()
  /// Sectors that were made the same on all legs.
  public internal(set) var repaired = RangeSet<Sector>()

  /// Whether all legs hold the same wherever they should.
  public var isEqual: Bool { differences.isEmpty && unreadable.isEmpty }

  mutating func note(_ range: Range<Sector>, differs leg: Int) {
    differences[leg, default: RangeSet()].insert(range)
  }
}

extension Mirror {
  /// Compares all legs with the trusted one, some regions at a time; writes to these wait.
  ///
  /// - Parameters:
  ///   - repairs: whether what differs is copied from the trusted leg to the others.
  ///   - skipped: sectors that are expected to differ.
  ///   - progress: called with the number of sectors that are done.
  func compare(
    repairs: Bool, skipping skipped: RangeSet<Sector>, progress: @Sendable (Sector) -> Void
  ) async -> MirrorComparison {
    var result = MirrorComparison()
    let size = parameters.regionSize
    let batch = max(1, Int(Sector(holding: 4 << 20).rawValue / size.sectors.rawValue))
    let all = Region(0)..<Region(size.count(in: sectorCount))
    var next = all.lowerBound
    while next < all.upperBound, !Task.isCancelled {
      let end = min(all.upperBound, next.advanced(by: batch))
      requests.add(1)
      await hold(next..<end)
      for range in syncRuns(of: next..<end, except: skipped, &result) {
        let differing = await compare(range, &result)
        if repairs, !differing.isEmpty { await repair(differing, next..<end, &result) }
      }
      release(next..<end)
      for region in next..<end where !log.isClean(region) { wentIdle(region) }
      requests.remove(1)
      next = end
      progress(min(sectorCount, size.sectors(of: all.lowerBound..<end).upperBound))
    }
    return result
  }

  /// The sectors of those regions that are in sync; the others are noted.
  private func syncRuns(
    of regions: Range<Region>, except skipped: RangeSet<Sector>,
    _ result: inout MirrorComparison
  ) -> [Range<Sector>] {
    var inSync = RangeSet<Sector>()
    for region in regions {
      let sectors = parameters.regionSize.sectors(of: region..<region.advanced(by: 1))
        .clamped(to: .zero..<sectorCount)
      if log.isInSync(region) { inSync.insert(sectors) } else { result.outOfSync.insert(sectors) }
    }
    return Array(inSync.subtracting(skipped).ranges)
  }

  /// - Returns: what differs on any leg.
  private func compare(
    _ sectors: Range<Sector>, _ result: inout MirrorComparison
  ) async -> RangeSet<Sector> {
    var differing = RangeSet<Sector>()
    for index in legs.indices where index != defaultLeg {
      do throws(KcopydError) {
        let comparison = try await client.compare(
          legs[defaultLeg].region(of: sectors), legs[index].region(of: sectors))
        for range in comparison.ranges.ranges.map({ $0.shifted(by: sectors.lowerBound) }) {
          result.note(range, differs: index)
          differing.insert(range)
        }
        for failures in [comparison.readFailures.0, comparison.readFailures.1] {
          for range in failures.sectors.ranges {
            result.unreadable.insert(range.shifted(by: sectors.lowerBound))
          }
        }
      } catch {
        result.unreadable.insert(sectors)
      }
    }
    result.compared += sectors.length
    return differing
  }

  private func repair(
    _ differing: RangeSet<Sector>, _ held: Range<Region>, _ result: inout MirrorComparison
  ) async {
    // As for a write: were the power lost on the way, they are copied as a whole.
    for region in held where log.isInSync(region) { log.mark(region) }
    await flushLog()
    let targets = legs.indices.filter { $0 != defaultLeg }
    for range in differing.ranges {
      let outcome = await copy(
        range, from: defaultLeg, to: targets, options: .dropFailedDestinations)
      var done = RangeSet(range)
      done.subtract(outcome.missing)
      result.repaired.formUnion(done)
    }
  }
}

extension MirrorDevice {
  /// Compares all legs, region by region, while the mirror is used: writes to the few regions that
  /// are being compared wait.
  ///
  /// - Parameters:
  ///   - repairs: whether what differs is copied from the trusted leg – the default leg – to the
  ///     others. Durable only after a flush.
  ///   - skipped: sectors that are expected to differ, besides those out of sync.
  ///   - progress: called on the loop with the number of sectors that are done.
  public func compare(
    repairs: Bool = false, skipping skipped: RangeSet<Sector> = RangeSet(),
    progress: @escaping @Sendable (Sector) -> Void = { _ in }
  ) async -> MirrorComparison {
    await mirror.compare(repairs: repairs, skipping: skipped, progress: progress)
  }
}
