import BlockIO
import BlockIOTesting

// Whole contents of devices, as tests write and compare them.

extension BlockDevice {
  /// What `sectors` read as.
  package func contents(_ sectors: Range<Sector>) async throws -> [UInt8] {
    let pages = try PagePool.lend(holding: sectors.length)
    let buffer = pages.buffer.slice(.zero, sectors.length)
    try await read(sectors, into: buffer)
    var bytes = [UInt8](repeating: 0, count: buffer.byteCount)
    buffer.store(into: &bytes)
    return bytes
  }

  /// Writes `bytes` from `first` on.
  package func put(_ bytes: [UInt8], at first: Sector, options: WriteOptions = []) async throws {
    let count = Sector(holding: UInt64(bytes.count))
    let pages = try PagePool.lend(holding: count)
    let buffer = pages.buffer.slice(.zero, count)
    buffer.load(from: bytes)
    try await write(first..<first + count, from: buffer, options: options)
  }

  /// Writes the pattern of a label.
  package func put(_ label: String, _ sectors: Range<Sector>) async throws {
    try await put(Pattern(label).bytes(sectors), at: sectors.lowerBound)
  }
}

/// The content of sectors under several labels.
package func patterns(_ runs: (String, Range<Sector>)...) -> [UInt8] {
  runs.flatMap { Pattern($0.0).bytes($0.1) }
}
