import BlockIO

/// The content of a sector: its label and number, again and again. A sector at the wrong place, or
/// of the wrong time, says so itself in a hex dump. The VM's `pattern` makes the same.
enum Pattern {
  static func sector(_ label: String, _ number: Sector) -> [UInt8] {
    let line = Array("\(label) sector \(number.rawValue)\n".utf8)
    let count = Int(Sector.byteCount)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + line.count)
    while bytes.count < count { bytes += line }
    return Array(bytes.prefix(count))
  }

  static func sectors(_ label: String, _ sectors: Range<Sector>) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(Int(sectors.length.bytes))
    for number in sectors.lowerBound.rawValue..<sectors.upperBound.rawValue {
      bytes += sector(label, Sector(number))
    }
    return bytes
  }
}

/// The same order each time, and none that has a system: chunks in it make no runs.
struct Shuffler: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  /// SplitMix64.
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var value = state
    value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
    value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
    return value ^ (value >> 31)
  }
}
