import BlockIO

/// Chunks of the origin of which it was seen lately that every snapshot has them, so that most
/// writes needn't look at one snapshot after the other.
///
/// What was seen holds until another snapshot becomes active: one never loses what it has, nor reads
/// it from the origin any more, and while its store is marked invalid it may well lose the rest.
final class SettledChunks {
  /// Copies under way, for all snapshots. While there are any, writers may have to wait for them to
  /// become fewer, and nothing is known.
  var copies = 0

  /// The smallest chunk of all snapshots.
  private var chunkSize: ChunkSize?
  /// Numbers of chunks by their lower bits; `none` where there is none.
  private var known = [UInt64](repeating: none, count: capacity)

  private static let capacity = 4096
  private static let none = UInt64.max

  /// Forgets everything: there is another snapshot, with chunks of these sizes in all.
  func forget(_ sizes: some Sequence<ChunkSize>) {
    chunkSize = sizes.min { $0.sectors < $1.sectors }
    for place in known.indices { known[place] = Self.none }
  }

  /// The chunk in which all of `sectors` lie.
  func chunk(around sectors: Range<Sector>) -> OriginChunk? {
    guard let chunkSize, !sectors.isEmpty else { return nil }
    let chunk: OriginChunk = chunkSize.chunk(of: sectors.lowerBound)
    return chunk == chunkSize.chunk(of: sectors.upperBound - 1) ? chunk : nil
  }

  /// The sectors of a chunk.
  func sectors(of chunk: OriginChunk) -> Range<Sector> {
    chunkSize?.sectors(of: chunk) ?? .zero..<Sector.zero
  }

  /// Whether that chunk can be written without a look at the snapshots.
  func knows(_ chunk: OriginChunk) -> Bool {
    copies == 0 && known[place(of: chunk)] == chunk.rawValue
  }

  /// All snapshots have this chunk.
  func note(_ chunk: OriginChunk) { known[place(of: chunk)] = chunk.rawValue }

  private func place(of chunk: OriginChunk) -> Int {
    Int(chunk.rawValue % UInt64(Self.capacity))
  }
}
