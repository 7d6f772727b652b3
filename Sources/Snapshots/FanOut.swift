import BlockIO

/// Cuts what several snapshots want of one origin into pieces that each go to the same snapshots,
/// so that every sector is read once and written to all of them in one job. Pure.
enum FanOut {
  /// Adjacent chunks of the origin and where one snapshot wants them, adjacent as well.
  struct Extent: Hashable {
    var origin: Range<Sector>
    var cow: Sector
  }

  /// Sectors of the origin, and the COW sectors they go to, by the index of the snapshot.
  struct Piece: Hashable {
    let origin: Range<Sector>
    let targets: [Target]
  }

  struct Target: Hashable {
    let snapshot: Int
    let cow: Sector
  }

  /// The pieces of `wanted`, which has each snapshot's extents in ascending order.
  static func pieces(_ wanted: [[Extent]]) -> [Piece] {
    var cuts = Set<Sector>()
    for extent in wanted.joined() {
      cuts.insert(extent.origin.lowerBound)
      cuts.insert(extent.origin.upperBound)
    }
    let sorted = cuts.sorted()
    var next = wanted.map { _ in 0 }
    var pieces: [Piece] = []
    for (start, end) in zip(sorted, sorted.dropFirst()) {
      var targets: [Target] = []
      for (snapshot, extents) in wanted.enumerated() {
        while next[snapshot] < extents.count, extents[next[snapshot]].origin.upperBound <= start {
          next[snapshot] += 1
        }
        guard next[snapshot] < extents.count else { continue }
        let extent = extents[next[snapshot]]
        guard extent.origin.lowerBound <= start else { continue }
        targets.append(
          Target(snapshot: snapshot, cow: extent.cow + (start - extent.origin.lowerBound)))
      }
      if !targets.isEmpty { pieces.append(Piece(origin: start..<end, targets: targets)) }
    }
    return pieces
  }
}
