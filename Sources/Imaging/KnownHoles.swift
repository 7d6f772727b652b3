public import BlockIO

extension IORegion {
  /// Holes below this length are read like data: asking costs more than reading.
  private static let shortestHole = Sector(holding: 64 << 10)

  /// The sectors of the region, counted from its start, that the device knows to read as zeros;
  /// small ones left out.
  ///
  /// The extents are walked once. A device that can't say where its data are has none.
  public func knownHoles() async throws(IOFailure) -> RangeSet<Sector> {
    var holes = RangeSet<Sector>()
    var position = sector
    while position < sectors.upperBound {
      let extents = try await device.blockStatus(position..<sectors.upperBound, limit: 1024)
      guard let last = extents.last else { break }
      for extent in extents
      where extent.status == .zero && extent.sectors.length >= Self.shortestHole {
        holes.insert(extent.sectors.lowerBound - sector..<extent.sectors.upperBound - sector)
      }
      position = last.sectors.upperBound
    }
    return holes
  }
}
