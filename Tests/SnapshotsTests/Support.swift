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
  /// Where it holds something else than `expected`, which has its size, from `first` on.
  func mismatch(with expected: [UInt8], from first: Sector = 0) -> ContentMismatch? {
    ContentMismatch(
      contents(first..<sectorCount), expected: Array(expected[Int(first.bytes)...]), from: first)
  }
}
