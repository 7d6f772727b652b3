import BlockIO

/// What each destination holds, in sectors of the source. Pure.
struct Ledger: Sendable {
  struct Destination: Sendable {
    /// What has been written, durable or not.
    var written: RangeSet<Sector>
    /// What is known to be on stable storage.
    var durable: RangeSet<Sector>
    /// Why it is left alone.
    var failure: IOFailure?
  }

  private(set) var destinations: [Destination]

  init(durable: [RangeSet<Sector>]) {
    destinations = durable.map { Destination(written: $0, durable: $0) }
  }

  /// Those that are still written to.
  var alive: [Int] { destinations.indices.filter { destinations[$0].failure == nil } }

  /// What destination `index` hasn't got of `sectors`.
  func lacking(_ index: Int, of sectors: Range<Sector>) -> RangeSet<Sector> {
    var all = RangeSet<Sector>()
    all.insert(sectors)
    return all.subtracting(destinations[index].written)
  }

  /// The longest beginning of `sectors` that the same destinations lack, and which.
  func uniform(_ sectors: Range<Sector>) -> (sectors: Range<Sector>, takers: [Int]) {
    var end = sectors.upperBound
    var takers: [Int] = []
    for index in alive {
      guard let first = lacking(index, of: sectors).ranges.first else { continue }
      if first.lowerBound == sectors.lowerBound {
        takers.append(index)
        end = min(end, first.upperBound)
      } else {
        end = min(end, first.lowerBound)
      }
    }
    return (sectors.lowerBound..<end, takers)
  }

  /// What every destination has on stable storage.
  var durableEverywhere: RangeSet<Sector> {
    destinations.dropFirst().reduce(destinations.first?.durable ?? RangeSet()) {
      $0.intersection($1.durable)
    }
  }

  mutating func note(written sectors: RangeSet<Sector>, by index: Int) {
    for range in sectors.ranges { destinations[index].written.insert(range) }
  }

  /// It was looked at, and isn't there.
  mutating func note(absent sectors: RangeSet<Sector>, at index: Int) {
    destinations[index].written.subtract(sectors)
    destinations[index].durable.subtract(sectors)
  }

  mutating func note(durable sectors: RangeSet<Sector>, at index: Int) {
    destinations[index].durable.formUnion(sectors)
  }

  /// Leaves a destination alone from now on; the first reason counts.
  mutating func note(failure: IOFailure, of index: Int) {
    destinations[index].failure = destinations[index].failure ?? failure
  }

  /// A flush failed: what was written since the last good one may be there or not.
  mutating func note(failedFlush failure: IOFailure, of index: Int) {
    note(failure: failure, of: index)
    destinations[index].written = destinations[index].durable
  }
}
