import CBlockIO
import SystemPackage

extension PageCachedFile {
  /// The extents of `sectors` by `SEEK_DATA` and `SEEK_HOLE`, at most `limit`.
  ///
  /// Walked once in ascending order: a single question can cost milliseconds per GiB ahead of it.
  /// A sector with any byte of data is data.
  func extents(of sectors: Range<Sector>, limit: Int) throws(IOFailure) -> [BlockExtent] {
    precondition(limit > 0)
    var extents: [BlockExtent] = []
    var position = sectors.lowerBound
    while position < sectors.upperBound, extents.count < limit {
      let dataStart = try seek(hole: false, position, in: sectors)
      // Rounded down: the sector in which data start is data.
      let data = min(Sector(dataStart / Sector.byteCount), sectors.upperBound)
      if data > position {
        extents.append(BlockExtent(position..<data, .zero))
        position = data
        continue
      }
      let hole = try seek(hole: true, position, in: sectors)
      let end = max(position + 1, min(Sector(holding: hole), sectors.upperBound))
      extents.append(BlockExtent(position..<end, .data))
      position = end
    }
    return extents
  }

  private func seek(
    hole: Bool, _ position: Sector, in sectors: Range<Sector>
  ) throws(IOFailure) -> UInt64 {
    let found = blockio_seek_extent(file.rawValue, hole, position.bytes)
    if found >= 0 { return UInt64(found) }
    let errno = Errno(rawValue: Int32(-found))
    switch errno {
    // No data up to the end of the file.
    case .noSuchAddressOrDevice: return sectors.upperBound.bytes
    // A file system without holes: all is data.
    case .invalidArgument: return hole ? sectors.upperBound.bytes : position.bytes
    default:
      throw IOFailure(.blockStatus, name, position..<sectors.upperBound, errno: errno)
    }
  }
}
