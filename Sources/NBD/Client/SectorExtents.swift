import BlockIO

/// Turns what a server says of bytes into what is known of sectors: a sector reads as zeros only
/// if all of it does. Pure.
struct SectorExtents {
  private let sectors: Range<Sector>
  private let byteCount: UInt64
  private let limit: Int
  private var extents: [BlockExtent] = []
  /// Up to where sectors have their answer.
  private var next: Sector
  /// Up to where the server has answered, in bytes.
  private var position: UInt64
  /// Whether all bytes of the sector at `next` that have been answered for, if any, are zeros.
  private var begunIsZero = true

  /// For `sectors` of an export of so many bytes; at most `limit` extents.
  init(_ sectors: Range<Sector>, byteCount: UInt64, limit: Int) {
    self.sectors = sectors
    self.byteCount = byteCount
    self.limit = limit
    next = sectors.lowerBound
    position = sectors.lowerBound.bytes
  }

  /// The next bytes, with the answer for them; more than was asked for does no harm.
  mutating func add(_ length: UInt64, isZero: Bool) {
    let end = min(sectors.upperBound.bytes, byteCount)
    guard position < end else { return }
    let reach = length > end - position ? end : position + length
    // The last sector of the export may be a begun one; what is behind it reads as zeros.
    let ended = reach == byteCount ? sectors.upperBound : Sector(reach / Sector.byteCount)
    defer { position = reach }
    if position % Sector.byteCount != 0 {
      begunIsZero = begunIsZero && isZero
      guard ended > next else { return }
      append(to: next + 1, isZero: begunIsZero)
    }
    if ended > next { append(to: ended, isZero: isZero) }
    begunIsZero = isZero
  }

  private mutating func append(to end: Sector, isZero: Bool) {
    let status: BlockExtent.Status = isZero ? .zero : .data
    if let last = extents.last, last.status == status {
      extents[extents.count - 1] = BlockExtent(last.sectors.lowerBound..<end, status)
    } else {
      extents.append(BlockExtent(next..<end, status))
    }
    next = end
  }

  /// What is known. A sector that the server said half of holds data; one of which it said nothing
  /// is left for the next question.
  func finished() -> [BlockExtent] {
    if extents.isEmpty, position > sectors.lowerBound.bytes {
      return [BlockExtent(next..<next + 1, .data)]
    }
    return Array(extents.prefix(limit))
  }
}
