import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Snapshots

extension SnapshotParameters {
  /// A persistent snapshot with chunks of that many sectors.
  static func persistent(_ sectors: Sector) -> SnapshotParameters {
    SnapshotParameters(chunkSize: ChunkSize(sectors))
  }
}

extension MemoryDevice {
  /// Where it holds something else than `expected`, which has its size.
  func mismatch(with expected: [UInt8]) -> ContentMismatch? {
    ContentMismatch(contents(0..<sectorCount), expected: expected, from: 0)
  }
}
