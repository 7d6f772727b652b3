import BlockIO

// What the kernel's log has no place for: which legs hold what was acknowledged in regions that are
// out of sync. This program's own format, on a small device of its own: two slots that are written
// in turn, so that one of them is always whole. Little-endian.
//
// Slot: magic "kcMirror" · version · number of legs · generation · regions · region size · number of
// runs · checksum, each 8 bytes; then the runs, 24 bytes each: first region · regions · legs, a bit
// each.

/// Regions in which not every leg has what was acknowledged, and which legs have it.
final class Sidecar {
  /// Neighbouring regions with the same holders.
  struct Run: Hashable {
    var regions: Range<Region>
    /// The legs that hold everything, a bit each.
    var holders: UInt64
  }

  static let slot = Sector(holding: 64 << 10)
  static let length = slot * 2

  private static let magic: UInt64 = 0x726F_7272_694D_636B
  private static let version: UInt64 = 1
  private static let headerCount = 64
  private static let runCount = 24
  /// The most runs that a slot holds.
  static let maximumRuns = (Int(slot.bytes) - headerCount) / runCount

  /// What a mirror must have in common with the one that wrote it.
  struct Shape: Hashable {
    var legCount: Int
    var regionCount: UInt64
    var regionSize: Sector
  }

  /// One of the two slots, as it was found.
  private struct Found {
    var shape: Shape
    var generation: UInt64
    var runs: [Run]
  }

  let device: any BlockDevice
  /// What the mirror is like; nil when it is only looked at: whatever is found there, then.
  private(set) var shape: Shape?
  private let pages: Pages
  private var generation: UInt64 = 0

  /// The sidecar on `device`. Nothing is read yet.
  init(_ device: any BlockDevice, shape: Shape?) throws(MirrorError) {
    self.device = device
    self.shape = shape
    guard Self.length <= device.wholeSectorCount else {
      throw .state(
        "'\(device.name)' is too small for a sidecar: it has \(device.sectorCount.rawValue)"
          + " sectors, \(Self.length.rawValue) are needed")
    }
    do throws(IOFailure) {
      pages = try PagePool.lend(holding: Self.slot)
    } catch {
      throw .io(error)
    }
  }

  private var buffer: IOBuffer { pages.buffer.slice(.zero, Self.slot) }

  /// What was written last; nothing on a new device.
  ///
  /// - Throws: when it can't be read, or belongs to a mirror of another shape.
  func read() async throws(MirrorError) -> [Run] {
    var newest: [Run] = []
    for number in [0, 1] as [UInt64] {
      do throws(IOFailure) {
        let first = Self.slot * number
        try await device.read(first..<first + Self.slot, into: buffer)
      } catch {
        throw .io(error)
      }
      guard let found = decode() else { continue }
      if let shape { try found.shape.check(shape, name: device.name) }
      guard found.generation > generation else { continue }
      generation = found.generation
      shape = found.shape
      newest = found.runs
    }
    return newest
  }

  /// Writes it, durably.
  func write(_ runs: [Run]) async throws(IOFailure) {
    guard let shape else { preconditionFailure("a sidecar that is only looked at") }
    generation += 1
    encode(Self.fitted(runs), shape)
    let first = Self.slot * (generation % 2)
    try await device.write(first..<first + Self.slot, from: buffer, options: .durable)
  }

  /// As many runs as a slot holds. If there are more, neighbours are put together under the legs
  /// that hold both: too few holders are safe. What doesn't fit even then is noted as known of no
  /// leg at all.
  private static func fitted(_ runs: [Run]) -> [Run] {
    guard runs.count > maximumRuns else { return runs }
    var joined: [Run] = []
    for run in runs {
      if let last = joined.last, last.regions.upperBound == run.regions.lowerBound,
        last.holders & run.holders != 0
      {
        joined[joined.count - 1] = Run(
          regions: last.regions.lowerBound..<run.regions.upperBound,
          holders: last.holders & run.holders)
      } else {
        joined.append(run)
      }
    }
    guard joined.count > maximumRuns, let last = joined.last else { return joined }
    let head = joined.prefix(maximumRuns - 1)
    let rest = joined[head.count].regions.lowerBound..<last.regions.upperBound
    return head + [Run(regions: rest, holders: 0)]
  }

  private func encode(_ runs: [Run], _ shape: Shape) {
    let buffer = buffer
    buffer.clear()
    let header: [UInt64] = [
      Self.magic, Self.version, UInt64(shape.legCount), generation, shape.regionCount,
      shape.regionSize.rawValue, UInt64(runs.count), 0,
    ]
    for (index, value) in header.enumerated() { buffer.store(value, at: index * 8) }
    for (index, run) in runs.enumerated() {
      let offset = Self.headerCount + index * Self.runCount
      buffer.store(run.regions.lowerBound.rawValue, at: offset)
      buffer.store(UInt64(run.regions.count), at: offset + 8)
      buffer.store(run.holders, at: offset + 16)
    }
    buffer.store(Self.checksum(buffer), at: 56)
  }

  /// nil for a slot that isn't whole, or was never written.
  private func decode() -> Found? {
    let buffer = buffer
    let sum = buffer.integer(at: 56, as: UInt64.self)
    guard buffer.integer(at: 0) == Self.magic, buffer.integer(at: 8) == Self.version else {
      return nil
    }
    buffer.store(0 as UInt64, at: 56)
    guard Self.checksum(buffer) == sum else { return nil }
    let shape = Shape(
      legCount: Int(truncatingIfNeeded: buffer.integer(at: 16, as: UInt64.self)),
      regionCount: buffer.integer(at: 32), regionSize: Sector(buffer.integer(at: 40)))
    let count = min(buffer.integer(at: 48, as: UInt64.self), UInt64(Self.maximumRuns))
    var runs: [Run] = []
    for index in 0..<Int(count) {
      let offset = Self.headerCount + index * Self.runCount
      let first: UInt64 = buffer.integer(at: offset)
      let length: UInt64 = buffer.integer(at: offset + 8)
      guard first <= shape.regionCount, length <= shape.regionCount - first else { continue }
      runs.append(
        Run(
          regions: Region(first)..<Region(first + length),
          holders: buffer.integer(at: offset + 16)))
    }
    return Found(shape: shape, generation: buffer.integer(at: 24), runs: runs)
  }

  /// FNV-1a over words.
  private static func checksum(_ buffer: IOBuffer) -> UInt64 {
    var sum: UInt64 = 0xcbf2_9ce4_8422_2325
    for offset in stride(from: 0, to: buffer.byteCount, by: 8) {
      sum = (sum ^ buffer.integer(at: offset)) &* 0x100_0000_01b3
    }
    return sum
  }
}

extension Sidecar.Shape {
  /// Refuses a mirror that is another one than that of the sidecar `name`.
  func check(_ mirror: Self, name: String) throws(MirrorError) {
    guard self != mirror else { return }
    throw .state("'\(name)' belongs to a mirror of \(words); this one has \(mirror.words)")
  }

  private var words: String {
    "\(legCount) legs and \(regionCount) regions of \(regionSize.rawValue) sectors"
  }
}
