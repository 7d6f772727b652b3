import BlockIO

/// Random numbers that are the same for the same seed, on every machine: SplitMix64.
///
/// A value: a copy goes on with the same numbers. Give each part of a test a generator of its own
/// with ``split()``, so that one more number drawn in one part doesn't change all others.
public struct SeededRandom: RandomNumberGenerator, Sendable {
  private var state: UInt64

  /// The generator of that seed. Neighbouring seeds give unrelated numbers.
  public init(seed: UInt64) { state = seed }

  /// The next number.
  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    return Self.mix(state)
  }

  /// A generator whose numbers are independent of those to come here.
  public mutating func split() -> SeededRandom {
    // Another constant than in `next`, so that the two sequences don't meet.
    SeededRandom(seed: Self.mix(next() ^ 0xd6e8_feb8_6659_fd93))
  }

  /// True in `numerator` of `denominator` cases.
  public mutating func chance(_ numerator: UInt64, in denominator: UInt64) -> Bool {
    next(upperBound: denominator) < numerator
  }

  /// A range of `1...longest` sectors that lies within `sectors`.
  public mutating func range(in sectors: Range<Sector>, longest: Sector) -> Range<Sector> {
    precondition(!sectors.isEmpty && longest > .zero)
    let count = 1 + next(upperBound: min(longest, sectors.length).rawValue)
    let start = sectors.lowerBound + Sector(next(upperBound: sectors.length.rawValue - count + 1))
    return start..<start + Sector(count)
  }

  /// A duration within `range`, in whole nanoseconds.
  public mutating func duration(in range: ClosedRange<Duration>) -> Duration {
    let lower = range.lowerBound.nanoseconds
    let width = UInt64(range.upperBound.nanoseconds - lower)
    return .nanoseconds(lower + Int64(next(upperBound: width + 1)))
  }

  private static func mix(_ value: UInt64) -> UInt64 {
    var mixed = value
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }
}
