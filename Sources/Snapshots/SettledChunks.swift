import BlockIO

/// Chunks of the origin of which it was seen lately that every snapshot has them, so that most
/// writes needn't look at one snapshot after the other.
///
/// A snapshot never loses what it has: what was seen holds until another one becomes active. What
/// comes and goes is counted as ``unrest``, and nothing is said while there is any.
final class SettledChunks {
  /// Copies under way, reads that snapshots have sent to the origin, stores being marked invalid.
  var unrest = 0

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

  /// Whether that chunk is known, and nothing goes on that a write might have to wait for.
  func knows(_ chunk: OriginChunk) -> Bool {
    unrest == 0 && known[place(of: chunk)] == chunk.rawValue
  }

  /// All snapshots have this chunk.
  func note(_ chunk: OriginChunk) { known[place(of: chunk)] = chunk.rawValue }

  private func place(of chunk: OriginChunk) -> Int {
    Int(chunk.rawValue % UInt64(Self.capacity))
  }
}
