import BlockIO
import Foundation

/// The file beside a mapfile, `FILE.kcopyd`: what a mapfile has no words for. JSON.
///
/// A mapfile says what is on all destinations; this says whose it is and what each destination
/// holds by itself. Places are sectors of 512 bytes of the source device. Version 1:
///
///     {
///       "version": 1,
///       "maps": ["…", "…"],          SHA-256 of the mapfile it goes with, and of the one before:
///                                     a crash may leave either
///       "source": {"name", "bytes", "identity", "modified"},
///       "region": {"from", "to", "count"},
///       "samples": [{"sector", "sha256"}],
///       "destinations": [{"name", "identity", "durable": [[first, count], …]}]
///     }
public struct ProgressRecord: Codable, Hashable, Sendable {
  /// The version that is written and understood.
  public static let version = 1

  /// What a source was when the map was begun.
  public struct Source: Codable, Hashable, Sendable {
    public var name: String
    public var bytes: UInt64
    public var identity: String
    /// When a regular file was changed last, in nanoseconds since 1970.
    public var modified: Int64?

    public init(name: String, bytes: UInt64, identity: String, modified: Int64?) {
      self.name = name
      self.bytes = bytes
      self.identity = identity
      self.modified = modified
    }
  }

  /// Which part of the source goes where, in sectors.
  public struct Region: Codable, Hashable, Sendable {
    public var from: UInt64
    public var to: UInt64
    public var count: UInt64

    public init(from: Sector, to: Sector, count: Sector) {
      self.from = from.rawValue
      self.to = to.rawValue
      self.count = count.rawValue
    }

    /// The sectors of the source.
    public var sectors: Range<Sector> { Sector(from)..<Sector(from) + Sector(count) }
  }

  /// What a sector of the source holds: another source is known by it.
  public struct Sample: Codable, Hashable, Sendable {
    public var sector: UInt64
    public var sha256: String
  }

  /// A destination and what is durable there.
  public struct Destination: Codable, Hashable, Sendable {
    public var name: String
    public var identity: String
    /// First sector and number of sectors, ascending.
    public var durable: [[UInt64]]

    public init(name: String, identity: String, durable: RangeSet<Sector>) {
      self.name = name
      self.identity = identity
      self.durable = durable.ranges.map { [$0.lowerBound.rawValue, $0.length.rawValue] }
    }

    /// The same as sectors.
    public var sectors: RangeSet<Sector> {
      RangeSet(durable.map { Sector($0[0])..<Sector($0[0]) + Sector($0[1]) })
    }
  }

  public var version = ProgressRecord.version
  public var maps: [String]
  public var source: Source
  public var region: Region
  public var samples: [Sample]
  public var destinations: [Destination]

  public init(
    maps: [String] = [], source: Source, region: Region, samples: [Sample] = [],
    destinations: [Destination]
  ) {
    self.maps = maps
    self.source = source
    self.region = region
    self.samples = samples
    self.destinations = destinations
  }

  // MARK: Bytes

  /// The text of the file.
  public var bytes: [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(self) else {
      preconditionFailure("a record of numbers and strings can't be encoded")
    }
    return [UInt8](data) + [0x0A]
  }

  /// Reads the file and checks every number in it.
  ///
  /// - Throws: the reason why it isn't one.
  public init(parsing bytes: [UInt8]) throws(MapRefusal) {
    struct Head: Decodable { let version: Int }
    let decoder = JSONDecoder()
    guard let head = try? decoder.decode(Head.self, from: Data(bytes)) else {
      throw MapRefusal("no progress record of kcopyd, or a damaged one")
    }
    guard head.version == Self.version else {
      throw MapRefusal("a progress record of version \(head.version); known is \(Self.version)")
    }
    guard let record = try? decoder.decode(Self.self, from: Data(bytes)) else {
      throw MapRefusal("a damaged progress record")
    }
    self = record
    try check()
  }

  private func check() throws(MapRefusal) {
    let limit = Sector(holding: source.bytes).rawValue
    func fits(_ first: UInt64, _ count: UInt64, _ limit: UInt64) -> Bool {
      first <= limit && count <= limit - first
    }
    guard source.bytes <= UInt64(Int64.max), fits(region.from, region.count, limit) else {
      throw MapRefusal("a damaged progress record: its region isn't within its source")
    }
    for destination in destinations {
      var end: UInt64 = 0
      for range in destination.durable {
        guard range.count == 2, range[0] >= end, range[1] > 0, fits(range[0], range[1], limit)
        else {
          throw MapRefusal(
            "a damaged progress record: the ranges of '\(destination.name)' make no sense")
        }
        end = range[0] + range[1]
      }
    }
  }
}

/// Why a map can't be used for what is to be done: one line. Nothing has been written.
public struct MapRefusal: Error, Hashable, Sendable, CustomStringConvertible {
  /// The line.
  public let description: String

  /// A refusal that says so.
  public init(_ description: String) { self.description = description }
}
