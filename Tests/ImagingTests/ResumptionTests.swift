import BlockIO
import Imaging
import Testing

@Suite struct ResumptionTests {
  static let source = MapStoreTests.source
  static let region = MapStoreTests.region

  static func set(_ ranges: Range<Sector>...) -> RangeSet<Sector> { RangeSet(ranges) }

  static func map(_ finished: Range<Sector>, bad: Range<Sector> = 0..<0) -> Mapfile {
    var map = StatusMap(count: 100)
    map.set(finished, .finished)
    map.set(bad, .badSector)
    return Mapfile(blocks: map.blocks(byteCount: source.bytes))
  }

  static func found(
    _ map: Mapfile, _ destinations: [(String, String, RangeSet<Sector>)], own: Bool = true
  ) -> MapStore.Found {
    .init(
      mapfile: map,
      record: ProgressRecord(
        source: source, region: region,
        destinations: destinations.map { .init(name: $0.0, identity: $0.1, durable: $0.2) }),
      belongTogether: own)
  }

  static func resume(
    _ found: MapStore.Found, _ targets: (String, String?)...,
    source: ProgressRecord.Source = source, region: ProgressRecord.Region = region
  ) throws -> Resumption {
    try Resumption(
      found, source: source, region: region,
      targets: targets.map { .init(name: $0.0, identity: $0.1) })
  }

  @Test func `each destination goes on with what it has`() throws {
    let found = Self.found(
      Self.map(0..<20, bad: 50..<51),
      [("a", "file:2", Self.set(0..<40)), ("b", "file:3", Self.set(0..<20))])
    // In any order; what doesn't exist begins anew; what isn't given is kept.
    let both = try Self.resume(found, ("b", "file:3"), ("a", "file:2"))
    #expect(both.durable == [Self.set(0..<20), Self.set(0..<40)])
    #expect(both.statuses.sectors([.finished], in: 0..<100) == Self.set(0..<20))
    #expect(both.statuses[50] == .badSector)
    let one = try Self.resume(found, ("a", "file:2"))
    #expect(one.statuses.sectors([.finished], in: 0..<100) == Self.set(0..<40))
    #expect(one.absent.map(\.name) == ["b"])
    let new = try Self.resume(found, ("a", "file:2"), ("b", nil), ("c", "file:9"))
    #expect(new.durable == [Self.set(0..<40), Self.set(), Self.set()])
    #expect(new.absent.isEmpty)
    #expect(new.statuses.first([.finished], in: 0..<100) == nil)
    // Another name of the same file.
    #expect(try Self.resume(found, ("z", "file:3")).durable == [Self.set(0..<20)])
  }

  @Test func `a mapfile of ddrescue is of one destination`() throws {
    let foreign = MapStore.Found(mapfile: Self.map(0..<20, bad: 50..<51))
    #expect(try Self.resume(foreign, ("a", "file:2")).durable == [Self.set(0..<20)])
    #expect(refusal { try Self.resume(foreign, ("a", nil)) }.contains("'a' holds 10240 bytes, but"))
    #expect(
      refusal { try Self.resume(foreign, ("a", "file:2"), ("b", "file:3")) }
        .contains("of one destination"))
    // Nothing claimed, nothing to refuse.
    let empty = MapStore.Found(mapfile: Self.map(0..<0, bad: 50..<51))
    #expect(try Self.resume(empty, ("a", nil), ("b", nil)).statuses[50] == .badSector)
  }

  @Test func `a map that others changed is believed as far as it can be`() throws {
    let single = Self.found(Self.map(0..<60), [("a", "file:2", Self.set(0..<20))], own: false)
    #expect(try Self.resume(single, ("a", "file:2")).durable == [Self.set(0..<60)])
    let two = try Self.resume(single, ("a", "file:2"), ("b", nil))
    #expect(two.durable == [Self.set(0..<60), Self.set()])
    // Of several: what was added counts for none, what was taken back for none either.
    let several = Self.found(
      Self.map(10..<60),
      [("a", "file:2", Self.set(0..<40)), ("b", "file:3", Self.set(0..<20))], own: false)
    let both = try Self.resume(several, ("a", "file:2"), ("b", "file:3"))
    #expect(both.durable == [Self.set(10..<40), Self.set(10..<20)])
    #expect(both.statuses.sectors([.finished], in: 0..<100) == Self.set(10..<20))
  }

  @Test func `another source, part or destination is refused`() {
    let found = Self.found(
      Self.map(0..<20), [("a", "file:2", Self.set(0..<40)), ("b", "file:3", Self.set(0..<20))])
    func with(_ change: (inout ProgressRecord.Source) -> Void) -> ProgressRecord.Source {
      var source = Self.source
      change(&source)
      return source
    }
    #expect(
      refusal { try Self.resume(found, ("a", "file:2"), source: with { $0.bytes = 51712 }) }
        .contains("'src' had 51200 bytes, 'src' has 51712"))
    #expect(
      refusal { try Self.resume(found, ("a", "file:2"), source: with { $0.bytes = 10240 }) }
        .contains("it speaks of 51200 bytes"))
    #expect(
      refusal { try Self.resume(found, ("a", "file:2"), source: with { $0.identity = "file:8" }) }
        .contains("of another source"))
    #expect(
      refusal { try Self.resume(found, ("a", "file:2"), source: with { $0.modified = 8 }) }
        .contains("'src' was changed after the map was begun"))
    #expect(
      refusal {
        try Self.resume(found, ("a", "file:2"), region: .init(from: 1, to: 0, count: 99))
      }.contains("of another part: of 100 sectors from 0 to 0"))
    #expect(
      refusal { try Self.resume(found, ("a", "file:3"), ("b", "file:2")) }
        .contains("'a' isn't what it was for the map: it is the one that was 'b'"))
    #expect(
      refusal { try Self.resume(found, ("a", "file:7")) }.contains("'a' isn't what it was"))
  }

  /// A disk that has nothing but a number isn't refused for another one.
  @Test func `numbers of disks may change`() throws {
    let found = Self.found(Self.map(0..<20), [("/dev/x", "number:8:0", Self.set(0..<20))])
    #expect(try Self.resume(found, ("/dev/x", "number:8:16")).durable == [Self.set(0..<20)])
    #expect(try Self.resume(found, ("/dev/y", "number:8:0")).durable == [Self.set()])
  }
}

/// What a refusal says.
func refusal(_ body: () throws -> some Any) -> String {
  do {
    _ = try body()
    return "not refused"
  } catch {
    return "\(error)"
  }
}
