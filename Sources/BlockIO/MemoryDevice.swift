import Synchronization
import SystemPackage

/// A block device in memory: durable by definition, gone with its last reference.
public final class MemoryDevice: BlockDevice {
  public let name: String
  public let limits: DeviceLimits

  private let bytes: Mutex<[UInt8]>

  /// A device of zeros.
  public init(name: String = "memory", sectorCount: Sector) {
    self.name = name
    var limits = DeviceLimits()
    limits.supportsFUA = true
    limits.supportsWriteZeroes = true
    limits.supportsDiscard = true
    self.limits = limits
    bytes = Mutex([UInt8](repeating: 0, count: Int(sectorCount.bytes)))
  }

  public var sectorCount: Sector { bytes.withLock { Sector(holding: UInt64($0.count)) } }

  /// The content of `sectors`.
  public func contents(_ sectors: Range<Sector>) -> [UInt8] {
    bytes.withLock { Array($0[byteRange(sectors)]) }
  }

  /// Sets the content from sector `first` on.
  public func fill(from first: Sector = .zero, _ contents: some Collection<UInt8>) {
    let start = Int(first.bytes)
    bytes.withLock { $0.replaceSubrange(start..<start + contents.count, with: contents) }
  }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    _ = try readNow(sectors, into: buffer)
  }

  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool {
    try check(sectors, for: .read)
    bytes.withLock { buffer.load(from: $0, at: Int(sectors.lowerBound.bytes)) }
    return true
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    _ = try writeNow(sectors, from: buffer, options: options)
  }

  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool {
    try check(sectors, for: .write)
    bytes.withLock { buffer.store(into: &$0, at: Int(sectors.lowerBound.bytes)) }
    return true
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try check(sectors, for: .writeZeroes)
    let range = byteRange(sectors)
    bytes.withLock { $0.replaceSubrange(range, with: repeatElement(0, count: range.count)) }
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await writeZeroes(sectors, mayUnmap: true)
  }

  public func flush() async throws(IOFailure) {}

  public func grow(to sectorCount: Sector) async throws(IOFailure) {
    bytes.withLock { bytes in
      let missing = Int(sectorCount.bytes) - bytes.count
      if missing > 0 { bytes.append(contentsOf: [UInt8](repeating: 0, count: missing)) }
    }
  }

  private func byteRange(_ sectors: Range<Sector>) -> Range<Int> {
    Int(sectors.lowerBound.bytes)..<Int(sectors.upperBound.bytes)
  }
}
