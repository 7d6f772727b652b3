public import BlockIO
import Crypto

/// The mapfile and the record beside it, on stable storage.
///
/// Each is written whole under another name, made durable and renamed into place, the record first:
/// whatever a crash leaves, each is whole, and the record – which decides – goes with the new map
/// and with the old one. What they say must be durable on the destinations before.
public actor MapStore {
  /// What was found.
  public struct Found: Sendable {
    /// The mapfile; nil if there is none, or an empty one.
    public var mapfile: Mapfile?
    /// The record; nil if there is none.
    public var record: ProgressRecord?
    /// Whether the record goes with the mapfile, which nobody else has changed then.
    public var belongTogether = false

    /// Nothing, or these.
    public init(
      mapfile: Mapfile? = nil, record: ProgressRecord? = nil, belongTogether: Bool = false
    ) {
      self.mapfile = mapfile
      self.record = record
      self.belongTogether = belongTogether
    }
  }

  /// The mapfile's name within its folder.
  public nonisolated let name: String
  /// The record's.
  public nonisolated var recordName: String { "\(name).kcopyd" }

  private let folder: any MapFolder
  private let loop: IOLoop
  /// Sums of the mapfiles that may be there: the record must go with each of them.
  private var sums: [String] = []

  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  /// The map `name` in `folder`.
  public init(_ name: String, in folder: any MapFolder, on loop: IOLoop) {
    self.name = name
    self.folder = folder
    self.loop = loop
  }

  /// Reads both.
  ///
  /// - Throws: when a file is there and can't be read or understood.
  public func load() async throws(MapRefusal) -> Found {
    var found = Found()
    if let bytes = try await read(name) {
      sums = [Self.sum(bytes)]
      let mapfile: Mapfile
      do throws(Mapfile.Malformed) {
        mapfile = try Mapfile(parsing: bytes)
      } catch {
        throw MapRefusal("'\(name)' is no mapfile: \(error)")
      }
      if !mapfile.blocks.isEmpty { found.mapfile = mapfile }
    }
    if let bytes = try await read(recordName) {
      do throws(MapRefusal) {
        let record = try ProgressRecord(parsing: bytes)
        found.record = record
        found.belongTogether = sums.contains { record.maps.contains($0) }
      } catch {
        throw MapRefusal("'\(recordName)': \(error)")
      }
    }
    return found
  }

  private func read(_ name: String) async throws(MapRefusal) -> [UInt8]? {
    do throws(IOFailure) {
      return try await folder.read(name)
    } catch {
      throw MapRefusal(error.description)
    }
  }

  /// Writes both, durably.
  ///
  /// - Throws: when that failed; what was there before is still there then, or the new one.
  public func save(_ mapfile: Mapfile, _ record: ProgressRecord) async throws(IOFailure) {
    let (text, new) = await folder.make {
      let text = [UInt8](mapfile.text.utf8)
      return (text, Self.sum(text))
    }
    var record = record
    record.maps = sums.contains(new) ? sums : sums + [new]
    try await replace(recordName, await folder.make { [record] in record.bytes })
    let temporary = try await prepare(name, text)
    // From here on until the rename is durable either may be found, even if it seems to fail. More
    // than a few that did would be worth nothing: then the mapfile counts as changed by others.
    sums = Array(record.maps.suffix(Self.maximumSums))
    try await folder.rename(temporary, to: name)
    try await folder.syncNames()
    sums = [new]
  }

  private static let maximumSums = 16

  private func replace(_ name: String, _ bytes: [UInt8]) async throws(IOFailure) {
    try await folder.rename(try await prepare(name, bytes), to: name)
    try await folder.syncNames()
  }

  /// Writes the new content durably under another name, which it returns.
  private func prepare(_ name: String, _ bytes: [UInt8]) async throws(IOFailure) -> String {
    let temporary = ".\(name).new"
    try await folder.write(temporary, bytes)
    try await folder.sync(temporary)
    return temporary
  }

  private static func sum(_ bytes: [UInt8]) -> String { SHA256.hash(data: bytes).hexadecimal }
}
