import BlockIO
import SystemPackage

/// Which regions are in sync, and which may not be after a loss of power.
///
/// Three bits per region: *clean*, as it is on the disk; *sync*, whether every leg can be read;
/// *recovering*. Belongs to one mirror, whose actor alone touches it.
final class DirtyLog {
  /// What is done about regions at every resume.
  enum Policy: Hashable, Sendable {
    /// What the log says.
    case asLogged
    /// All regions are out of sync.
    case sync
    /// All regions are in sync.
    case nosync

    init(_ sync: MirrorParameters.SyncPolicy?) {
      self =
        switch sync {
        case nil: .asLogged
        case .sync: .sync
        case .nosync: .nosync
        }
    }
  }

  /// How the log device is.
  enum Condition: Hashable, Sendable {
    case alive
    case failed(String)
    case flushFailed(String)
  }

  let regionCount: UInt64
  let policy: Policy
  /// nil: the log is in memory only.
  let disk: DiskLog?

  private(set) var condition = Condition.alive
  /// Whether there was a log, by which the mirror went on.
  private(set) var wasFound = false
  /// Bits as they are to be on the disk.
  private(set) var clean: RegionBits
  private(set) var sync: RegionBits
  private var recovering: RegionBits
  private var cursor: Region = 0

  /// Regions whose clean bit is set with the next flush, unless they are marked before.
  private var idle = Set<Region>()
  /// Those of them that the flush under way is for. One that is marked meanwhile isn't covered by it,
  /// even if it is idle again before that ends.
  private var covered = Set<Region>()
  /// Whether a bit has been cleared since the last flush of the log device.
  private var isDirtied = false
  /// Regions whose bit has been cleared and may still be set on the disk.
  private var unwritten = Set<Region>()
  /// Whether bits are set at all; see ``stopCleaning()``.
  private var mayClean = true

  private var wanted: UInt64 = 0
  private var done: UInt64 = 0
  private var isFlushing = false
  private let flushed = Gate()

  init(regionCount: UInt64, policy: Policy, disk: DiskLog?) {
    self.regionCount = regionCount
    self.policy = policy
    self.disk = disk
    let isInSync = policy == .nosync
    clean = RegionBits(count: regionCount, repeating: isInSync)
    sync = clean
    recovering = RegionBits(count: regionCount)
  }

  /// Regions in sync whose bit isn't set: what was written there last may not be durable on all
  /// legs. Looks at every region.
  var uncleanInSync: [Region] { sync.subtracting(clean) }

  /// How many regions are in sync.
  var syncCount: UInt64 { sync.setCount }
  var isInSync: Bool { syncCount == regionCount }
  var hasFailed: Bool { condition != .alive }

  // MARK: Resume

  /// Takes the state from the log device and writes back what this mirror makes of it. A log in
  /// memory keeps what it has.
  ///
  /// - Returns: why the log couldn't be read or written, if it couldn't; the mirror goes on.
  /// - Throws: when its device is suspended, for longer than may be waited for: it may be all right.
  func resume() async throws(IOFailure) -> String? {
    cursor = 0
    guard let disk else { return nil }
    var problem: String?
    var bits: (found: RegionBits, count: UInt64)?
    do throws(IOFailure) {
      if policy == .asLogged { bits = try await disk.read() } else { try await disk.prepare() }
      wasFound = bits != nil
    } catch {
      guard !error.isStillSuspended else { throw error }
      problem = error.description
      fail(error.description)
    }
    // Regions that the log doesn't know are out of sync, unless all are said to be in sync.
    var known = bits?.found ?? RegionBits(count: regionCount)
    let knownCount = min(regionCount, bits?.count ?? 0)
    known.set(Region(knownCount)..<Region(regionCount), to: policy == .nosync)
    clean = known
    sync = known
    recovering = RegionBits(count: regionCount)
    unwritten = []
    do throws(IOFailure) {
      try await disk.writeAll(clean)
    } catch {
      guard !error.isStillSuspended else { throw error }
      problem = error.description
      fail(error.description)
      return problem
    }
    do throws(IOFailure) {
      try await disk.device.flush()
    } catch {
      guard !error.isStillSuspended else { throw error }
      condition = .flushFailed(error.description)
      problem = error.description
    }
    return problem
  }

  // MARK: Bits

  /// A write to the region is about to start. Durable with the next ``flush(legs:)``.
  func mark(_ region: Region) {
    // Looking for something costs even where there is nothing.
    if !idle.isEmpty { idle.remove(region) }
    if !covered.isEmpty { covered.remove(region) }
    guard clean[region] else { return }
    clean[region] = false
    isDirtied = true
    unwritten.insert(region)
    disk?.noteChange(of: region)
  }

  /// Whether a write to the region needn't wait for the log: its bit is clear on the disk, and nothing
  /// that is under way will set it once the region has been marked.
  func isMarkedDurably(_ region: Region) -> Bool {
    !clean[region] && (unwritten.isEmpty || !unwritten.contains(region)) && mayClean && !hasFailed
  }

  /// All legs hold the same there, once they are flushed.
  func clear(_ region: Region) {
    if !clean[region], mayClean { idle.insert(region) }
  }

  /// Whether the region's bit is set, or about to be.
  func isClean(_ region: Region) -> Bool { clean[region] || idle.contains(region) }

  /// Whether the region may be read from any leg.
  func isInSync(_ region: Region) -> Bool { sync[region] }

  /// The region is in sync from now on, or no longer.
  func setSync(_ region: Region, _ isInSync: Bool) {
    recovering[region] = false
    sync[region] = isInSync
    if !isInSync { idle.remove(region) }
  }

  /// Regions that follow each other and are out of sync, `limit` at most, which count as being
  /// recovered from now on. Each is given out once per resume, unless it is put back.
  func nextRecoveryWork(_ limit: Int) -> Range<Region>? {
    while let first = sync.firstClear(from: cursor) {
      cursor = first.advanced(by: 1)
      guard !recovering[first] else { continue }
      var end = cursor
      while first.distance(to: end) < limit, end.rawValue < regionCount, !sync[end],
        !recovering[end]
      {
        end = end.advanced(by: 1)
      }
      for region in first..<end { recovering[region] = true }
      cursor = end
      return first..<end
    }
    return nil
  }

  /// Gives back what ``nextRecoveryWork(_:)`` gave out and nobody has begun.
  func putBack(_ regions: Range<Region>) {
    for region in regions { recovering[region] = false }
    cursor = min(cursor, regions.lowerBound)
  }

  /// Looks at all regions once more, those included whose recovery has failed.
  func startOver() { cursor = 0 }

  // MARK: Flush

  /// Makes every ``mark(_:)`` before it durable, and sets the bits of idle regions. Calls that come
  /// while one is under way share the next one.
  ///
  /// - Parameter legs: flushes all legs; false if one of them couldn't be: no bit is set then, and
  ///   what is to be thought of these regions is for the caller to say.
  /// - Returns: whether the log says on the disk what it should.
  @discardableResult
  func flush(legs: () async -> Bool) async -> Bool {
    guard isDirtied || !idle.isEmpty || disk?.hasChanges == true || isFlushing else {
      return !hasFailed
    }
    wanted += 1
    let mine = wanted
    while done < mine {
      if isFlushing {
        await flushed.wait { isFlushing }
        continue
      }
      isFlushing = true
      let covered = wanted
      await flushOnce(legs)
      done = covered
      isFlushing = false
      flushed.open()
    }
    return !hasFailed
  }

  private func flushOnce(_ legs: () async -> Bool) async {
    covered = idle
    if !covered.isEmpty {
      if await legs() {
        // Only what is still idle: a write that came meanwhile isn't covered by that flush.
        for region in covered where idle.remove(region) != nil && !clean[region] {
          clean[region] = true
          disk?.noteChange(of: region)
        }
      } else {
        idle.subtract(covered)
      }
      covered = []
    }
    guard let disk else {
      isDirtied = false
      unwritten = []
      return
    }
    let mustFlush = isDirtied
    let marked = unwritten
    do throws(IOFailure) {
      isDirtied = false
      try await disk.writeChanges(disk.takeChanges(clean))
    } catch {
      isDirtied = isDirtied || mustFlush
      return fail(error.description)
    }
    if mustFlush, await flushDevice() != nil {
      isDirtied = true
    } else {
      unwritten.subtract(marked)
    }
  }

  /// A leg has lost writes and nobody keeps account of which: the kernel calls nothing clean any more,
  /// for as long as there is this log. Durable with the next flush.
  func stopCleaning() {
    mayClean = false
    idle = []
    clean = RegionBits(count: regionCount)
    disk?.noteAllChanged()
    isDirtied = true
  }

  private func flushDevice() async -> String? {
    guard let disk else { return nil }
    do throws(IOFailure) {
      try await disk.device.flush()
      return nil
    } catch {
      condition = .flushFailed(error.description)
      return error.description
    }
  }

  private func fail(_ reason: String) {
    if case .flushFailed = condition { return }
    condition = .failed(reason)
  }
}
