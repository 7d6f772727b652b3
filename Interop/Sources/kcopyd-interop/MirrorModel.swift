import BlockIO

/// What the legs of a mirror must hold and its log say: plain arrays, written beside the devices.
/// Nothing in it is read back through the library, nor worked out by it.
struct MirrorModel {
  let region: Sector
  /// Where on each leg the mirror begins.
  let offsets: [Sector]
  private(set) var legs: [[UInt8]]
  /// The length of the mirror.
  private(set) var length = Sector.zero
  /// Of each region, whether its bit in the log is set; nil: there is no log.
  private(set) var clean: [Bool]?

  init(legs: [[UInt8]], offsets: [Sector], region: Sector) {
    self.legs = legs
    self.offsets = offsets
    self.region = region
  }

  // MARK: What happens to the mirror

  /// A table is activated.
  mutating func resume(length: Sector, policy: Policy) {
    self.length = length
    let count = Int((length.rawValue + region.rawValue - 1) / region.rawValue)
    let known = policy == .asLogged ? clean ?? [] : []
    clean = (0..<count).map { $0 < known.count ? known[$0] : policy == .nosync }
  }

  /// A log without a mirror, for one of that length.
  mutating func makeLog(length: Sector, isInSync: Bool) {
    resume(length: length, policy: isInSync ? .nosync : .sync)
  }

  /// Regions are copied: all, or so many of those that are out of sync, the lowest first.
  ///
  /// - Returns: how many sectors each leg but the first got.
  @discardableResult
  mutating func recover(_ limit: Int = .max) -> Sector {
    var copied = Sector.zero
    for number in dirtyRegions.prefix(limit) {
      let sectors = self.sectors(of: number)
      let bytes = Array(legs[0][place(of: sectors, on: 0)])
      for leg in legs.indices.dropFirst() { put(bytes, at: sectors, on: leg) }
      clean?[number] = true
      copied += sectors.length
    }
    return copied
  }

  /// A write that ended well: where the legs are in sync it is on all but those that lost it.
  mutating func write(_ label: String, _ sectors: Range<Sector>, lostBy lost: [Int] = []) {
    for part in sectors.split(by: region) {
      let number = region(of: part)
      let isInSync = clean?[number] == true
      for leg in legs.indices where leg == 0 || isInSync {
        if lost.contains(leg) { continue }
        put(Pattern.sectors(label, part), at: part, on: leg)
      }
      if isInSync, !lost.isEmpty { clean?[number] = false }
    }
  }

  /// Bits are still to be set when the log is seen for the last time: those of these sectors.
  mutating func leaveDirty(_ sectors: Range<Sector>) {
    for part in sectors.split(by: region) {
      let number = region(of: part)
      clean?[number] = false
    }
  }

  // MARK: What is to be seen

  var dirtyRegions: [Int] { (clean ?? []).indices.filter { clean?[$0] == false } }

  /// The status line's share of regions in sync.
  var inSync: String {
    let count = clean?.count ?? 0
    return "\(count - dirtyRegions.count)/\(count)"
  }

  /// The log from its start to the end of the bits, but for the bytes between header and bits.
  var log: [UInt8] {
    let bits = clean ?? []
    var bytes: [UInt8] = Array("rRiM".utf8) + [2, 0, 0, 0]
    for shift in stride(from: 0, to: 64, by: 8) {
      bytes.append(UInt8(truncatingIfNeeded: UInt64(bits.count) >> UInt64(shift)))
    }
    var words = [UInt8](repeating: 0, count: (bits.count + 63) / 64 * 8)
    for (number, bit) in bits.enumerated() where bit { words[number / 8] |= 1 << (number % 8) }
    return bytes + words
  }

  private func region(of part: Range<Sector>) -> Int {
    Int(part.lowerBound.rawValue / region.rawValue)
  }

  private func sectors(of number: Int) -> Range<Sector> {
    region * UInt64(number)..<min(length, region * UInt64(number + 1))
  }

  private func place(of sectors: Range<Sector>, on leg: Int) -> Range<Int> {
    Int((sectors.lowerBound + offsets[leg]).bytes)..<Int((sectors.upperBound + offsets[leg]).bytes)
  }

  private mutating func put(_ bytes: [UInt8], at sectors: Range<Sector>, on leg: Int) {
    legs[leg].replaceSubrange(place(of: sectors, on: leg), with: bytes)
  }
}

/// What is done about regions when a table is activated.
enum Policy: String {
  case asLogged = "as-logged"
  case sync
  case nosync
}
