import BlockIO
import SystemPackage

/// A dirty log on a device: reads it as a whole and writes the blocks that change.
final class DiskLog {
  let device: any BlockDevice
  let geometry: LogGeometry

  /// The log as it is on the device: what isn't header or bits is kept.
  private let pages: Pages
  /// Blocks in which a bit has changed since they were written.
  private var changed = Set<Int>()

  /// The log on `device` of a mirror with so many regions. Nothing is read yet.
  ///
  /// - Throws: when the device is too small for it.
  init(_ device: any BlockDevice, regionCount: UInt64) throws(MirrorError) {
    self.device = device
    geometry = LogGeometry(regionCount: regionCount, block: device.limits.logicalBlock)
    guard geometry.length <= device.wholeSectorCount else {
      throw .logTooSmall(
        name: device.name, sectors: device.sectorCount, needed: geometry.length)
    }
    do throws(IOFailure) {
      pages = try PagePool.lend(holding: geometry.length)
    } catch {
      throw .io(error)
    }
    pages.buffer.clear()
  }

  private var buffer: IOBuffer { pages.buffer.slice(.zero, geometry.length) }

  var hasChanges: Bool { !changed.isEmpty }

  /// Reads the log.
  ///
  /// - Returns: the bits, and for how many regions they are; nil when there is no log, only
  ///   something else.
  /// - Throws: when it can't be read, or is of an unknown version.
  func read() async throws(IOFailure) -> (found: RegionBits, count: UInt64)? {
    try await prepare()
    let header = LogHeader(buffer)
    guard header.magic == LogHeader.magic else { return nil }
    guard header.version == 1 || header.version == LogHeader.version else {
      throw IOFailure(
        .read, device.name, .zero..<1, errno: .invalidArgument,
        detail: "version \(header.version) of the mirror log isn't known; 2 is")
    }
    return (geometry.bits(buffer), header.regionCount)
  }

  /// Reads what is kept, whatever the bits are.
  func prepare() async throws(IOFailure) {
    do throws(IOFailure) {
      try await device.read(.zero..<geometry.length, into: buffer)
    } catch {
      // What couldn't be read is made anew as a whole.
      buffer.clear()
      throw error
    }
  }

  /// Writes everything, header included. Not flushed.
  func writeAll(_ bits: RegionBits) async throws(IOFailure) {
    LogHeader(regionCount: geometry.regionCount).encode(into: buffer)
    geometry.encode(bits, blocks: 0..<geometry.blockCount, into: buffer)
    changed = []
    do throws(IOFailure) {
      try await device.write(.zero..<geometry.length, from: buffer)
    } catch {
      changed = Set(0..<geometry.blockCount)
      throw error
    }
  }

  func noteAllChanged() { changed = Set(0..<geometry.blockCount) }

  func noteChange(of region: Region) { changed.insert(geometry.block(of: region)) }

  /// Puts the blocks that have changed into the buffer, for ``writeChanges(_:)``. Apart from it, so
  /// that nobody holds the bits while they are written: marking one would copy all of them.
  func takeChanges(_ bits: RegionBits) -> [Int] {
    let blocks = changed.sorted()
    changed = []
    for block in blocks { geometry.encode(bits, blocks: block..<block + 1, into: buffer) }
    return blocks
  }

  /// Writes these blocks, ascending. Not flushed.
  func writeChanges(_ blocks: [Int]) async throws(IOFailure) {
    var index = 0
    while index < blocks.count {
      var end = index + 1
      while end < blocks.count, blocks[end] == blocks[end - 1] + 1 { end += 1 }
      let range = blocks[index]..<blocks[end - 1] + 1
      let sectors = geometry.sectors(ofBlocks: range)
      do throws(IOFailure) {
        try await device.write(
          sectors, from: buffer.slice(sectors.lowerBound, sectors.length))
      } catch {
        changed.formUnion(blocks[index...])
        throw error
      }
      index = end
    }
  }
}
