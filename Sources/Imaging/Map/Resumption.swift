public import BlockIO

/// Where a copy starts: what is known of the source, and what each destination holds. Pure.
public struct Resumption: Sendable {
  /// A destination as it was given.
  public struct Target: Sendable {
    /// Its name.
    public var name: String
    /// What it is, see ``EndpointIdentity``; nil if it doesn't exist yet.
    public var identity: String?

    /// A destination.
    public init(name: String, identity: String?) {
      self.name = name
      self.identity = identity
    }
  }

  /// Of every sector of the source. Finished is what all destinations hold.
  public var statuses: StatusMap
  /// By destination: the sectors of the source that are durable there.
  public var durable: [RangeSet<Sector>]
  /// Where the one before was.
  public var phase = RescuePhase.copying
  public var pass = 1
  public var position: Sector?
  /// What sectors of the source hold.
  public var samples: [ProgressRecord.Sample] = []
  /// Destinations of the record that aren't among those given.
  public var absent: [ProgressRecord.Destination] = []

  /// A new beginning.
  public init(byteCount: UInt64, targets: Int) {
    statuses = StatusMap(count: Sector(holding: byteCount))
    durable = Array(repeating: RangeSet(), count: targets)
  }

  /// Goes on with what was found.
  ///
  /// A record that goes with its mapfile is believed. A mapfile that someone else has changed – or
  /// made – is believed for a single destination, as by ddrescue; of several none is known to
  /// have what was added, so that only what the record has counts, without what the mapfile takes
  /// back.
  ///
  /// - Throws: when the map is of another source, another part of it, or another destination.
  public init(
    _ found: MapStore.Found, source: ProgressRecord.Source, region: ProgressRecord.Region,
    targets: [Target]
  ) throws(MapRefusal) {
    self.init(byteCount: source.bytes, targets: targets.count)
    guard let mapfile = found.mapfile else { return }
    guard mapfile.extent.upperBound <= source.bytes else {
      throw MapRefusal(
        "the map is of another source: it speaks of \(mapfile.extent.upperBound) bytes, and"
          + " '\(source.name)' has \(source.bytes)")
    }
    phase = mapfile.phase
    pass = mapfile.pass
    let known = StatusMap(mapfile, byteCount: source.bytes)
    position =
      mapfile.position < source.bytes ? Sector(mapfile.position / Sector.byteCount) : known.count
    let claimed = known.sectors([.finished], in: region.sectors)
    if let record = found.record {
      try Self.check(record, source, region)
      samples = record.samples
      try take(record, targets, claimed, isBelieved: found.belongTogether)
    } else {
      try take(claimed, targets)
    }
    statuses = known
    settle(in: region.sectors)
  }

  private static func check(
    _ record: ProgressRecord, _ source: ProgressRecord.Source, _ region: ProgressRecord.Region
  ) throws(MapRefusal) {
    let old = record.source
    guard old.bytes == source.bytes else {
      throw MapRefusal(
        "the map is of another source: '\(old.name)' had \(old.bytes) bytes, '\(source.name)' has"
          + " \(source.bytes)")
    }
    guard EndpointIdentity.areSame(old.identity, source.identity) else {
      throw MapRefusal(
        "the map is of another source: of '\(old.name)' (\(old.identity)), and '\(source.name)'"
          + " is \(source.identity)")
    }
    guard old.modified == source.modified else {
      throw MapRefusal(
        "'\(source.name)' was changed after the map was begun: remove the map to start over")
    }
    guard record.region == region else {
      throw MapRefusal(
        "the map is of another part: of \(record.region.count) sectors from"
          + " \(record.region.from) to \(record.region.to) (--from, --to, --count)")
    }
  }

  /// A mapfile alone.
  private mutating func take(
    _ claimed: RangeSet<Sector>, _ targets: [Target]
  ) throws(MapRefusal) {
    guard !claimed.isEmpty else { return }
    guard targets.count == 1, let target = targets.first else {
      throw MapRefusal(
        "the map is of one destination, nobody knows which: go on with that one alone first,"
          + " and add the others then")
    }
    guard target.identity != nil else {
      throw MapRefusal(
        "the map says that '\(target.name)' holds \(claimed.sectorCount.bytes) bytes, but it"
          + " doesn't exist")
    }
    durable = [claimed]
  }

  /// What the record says of each destination.
  private mutating func take(
    _ record: ProgressRecord, _ targets: [Target], _ claimed: RangeSet<Sector>, isBelieved: Bool
  ) throws(MapRefusal) {
    var rest = record.destinations
    var matches: [ProgressRecord.Destination?] = []
    for target in targets {
      matches.append(try Self.match(target, &rest))
    }
    absent = rest
    for (index, match) in matches.enumerated() { durable[index] = match?.sectors ?? RangeSet() }
    guard !isBelieved else { return }
    if record.destinations.count == 1 {
      for (index, match) in matches.enumerated() where match != nil { durable[index] = claimed }
      for index in absent.indices { absent[index] = absent[index].holding(claimed) }
      return
    }
    var takenBack = record.destinations.dropFirst().reduce(
      record.destinations.first?.sectors ?? RangeSet()
    ) { $0.intersection($1.sectors) }
    takenBack.subtract(claimed)
    for index in durable.indices { durable[index].subtract(takenBack) }
    for index in absent.indices {
      absent[index] = absent[index].holding(absent[index].sectors.subtracting(takenBack))
    }
  }

  /// The record's destination that a given one is; taken out of `rest`.
  private static func match(
    _ target: Target, _ rest: inout [ProgressRecord.Destination]
  ) throws(MapRefusal) -> ProgressRecord.Destination? {
    guard let identity = target.identity else {
      // It was removed: made anew, and brought up by itself.
      rest.removeAll { $0.name == target.name }
      return nil
    }
    // The name decides first: an identity may be one that several have.
    let index =
      rest.firstIndex {
        $0.name == target.name && EndpointIdentity.areSame($0.identity, identity)
      } ?? rest.firstIndex { $0.identity == identity && EndpointIdentity.isStable(identity) }
    if let other = rest.firstIndex(where: { $0.name == target.name }), other != index {
      let whose = index.map { ": it is the one that was '\(rest[$0].name)'" } ?? ""
      throw MapRefusal(
        "'\(target.name)' isn't what it was for the map\(whose); give the one it was, or the map"
          + " another name")
    }
    return index.map { rest.remove(at: $0) }
  }

  /// Makes finished in `statuses` what every destination holds, and nothing else.
  private mutating func settle(in region: Range<Sector>) {
    let all = durable.dropFirst().reduce(durable.first ?? RangeSet()) { $0.intersection($1) }
    for range in statuses.sectors([.finished], in: region).subtracting(all).ranges {
      statuses.set(range, .nonTried)
    }
    for range in all.ranges { statuses.set(range.clamped(to: region), .finished) }
  }
}

extension ProgressRecord.Destination {
  fileprivate func holding(_ sectors: RangeSet<Sector>) -> Self {
    .init(name: name, identity: identity, durable: sectors)
  }
}
