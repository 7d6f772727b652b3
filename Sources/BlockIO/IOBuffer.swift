import CBlockIO
import SystemPackage

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

// @unchecked Sendable: the pointer is an address, the bytes behind it belong to one sub-job at a
// time, and that one awaits each transfer before it starts another that conflicts.

/// A piece of memory that devices read into and write from: a view, whole sectors long.
///
/// A view owns nothing. It may be used only while its owner – ``Pages`` – lives. The engine
/// guarantees it by structure: the pages are a local value of the function that awaits the I/O.
public struct IOBuffer: @unchecked Sendable {
  /// Memory of the owner; valid for `byteCount` bytes while the owner lives.
  let base: UnsafeMutableRawPointer
  /// The length in bytes, a multiple of 512.
  public let byteCount: Int

  init(base: UnsafeMutableRawPointer, byteCount: Int) {
    precondition(byteCount >= 0 && byteCount % 512 == 0)
    self.base = base
    self.byteCount = byteCount
  }

  /// A view of memory that isn't the engine's, `byteCount` bytes from `base` on: a multiple of 512.
  /// Whoever makes it answers for the memory being there, and nobody else's, until each request
  /// that was given the view has ended.
  public static func foreign(_ base: UnsafeMutableRawPointer, byteCount: Int) -> IOBuffer {
    IOBuffer(base: base, byteCount: byteCount)
  }

  /// The length in sectors.
  public var sectorCount: Sector { Sector(UInt64(byteCount) / Sector.byteCount) }

  /// The part of `count` sectors that starts `offset` sectors into this buffer.
  public func slice(_ offset: Sector, _ count: Sector) -> IOBuffer {
    precondition(offset + count <= sectorCount, "a slice outside of its buffer")
    return IOBuffer(base: base + Int(offset.bytes), byteCount: Int(count.bytes))
  }

  /// Calls `body` with the bytes.
  public func withBytes<R, E: Error>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
    // The span can't outlive the call, and this view's owner outlives the view.
    try body(UnsafeRawBufferPointer(start: base, count: byteCount).bytes)
  }

  /// Calls `body` with the bytes, to change them.
  public func withMutableBytes<R, E: Error>(
    _ body: (inout MutableRawSpan) throws(E) -> R
  ) throws(E) -> R {
    // As above; exclusive, because a buffer belongs to one sub-job at a time.
    var span = UnsafeMutableRawBufferPointer(start: base, count: byteCount).mutableBytes
    return try body(&span)
  }

  /// Fills the buffer with zeros.
  public func clear() { memset(base, 0, byteCount) }

  /// Fills the bytes of `range` with zeros.
  public func clear(_ range: Range<Int>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= byteCount)
    memset(base + range.lowerBound, 0, range.count)
  }

  /// Puts `bytes` to a byte offset.
  public func store(_ bytes: RawSpan, at offset: Int) {
    precondition(offset >= 0 && offset <= byteCount && bytes.byteCount <= byteCount - offset)
    bytes.withUnsafeBytes { source in
      // Not of one owner: `bytes` is borrowed from elsewhere for the length of this call.
      if let source = source.baseAddress { memcpy(base + offset, source, bytes.byteCount) }
    }
  }

  /// Copies the bytes of `other`, which must be of the same length.
  public func copy(from other: IOBuffer) {
    precondition(byteCount == other.byteCount)
    memcpy(base, other.base, byteCount)
  }

  /// Fills the buffer with `bytes` from `offset` on.
  public func load(from bytes: [UInt8], at offset: Int = 0) {
    bytes[offset..<offset + byteCount].withUnsafeBytes { source in
      if let source = source.baseAddress { memcpy(base, source, byteCount) }
    }
  }

  /// Copies the buffer to `bytes` from `offset` on.
  public func store(into bytes: inout [UInt8], at offset: Int = 0) {
    precondition(offset >= 0 && offset + byteCount <= bytes.count)
    bytes.withUnsafeMutableBytes { target in
      if let target = target.baseAddress { memcpy(target + offset, base, byteCount) }
    }
  }

  /// The little-endian number at a byte offset.
  public func integer<T: FixedWidthInteger & BitwiseCopyable>(
    at offset: Int, as type: T.Type = T.self
  ) -> T {
    precondition(offset >= 0 && offset + MemoryLayout<T>.size <= byteCount)
    return T(littleEndian: base.loadUnaligned(fromByteOffset: offset, as: T.self))
  }

  /// Puts a number to a byte offset, little-endian.
  public func store(_ value: some FixedWidthInteger & BitwiseCopyable, at offset: Int) {
    let bytes = value.littleEndian
    precondition(offset >= 0 && offset + MemoryLayout.size(ofValue: bytes) <= byteCount)
    base.storeBytes(of: bytes, toByteOffset: offset, as: type(of: bytes))
  }

  /// Whether all bytes are zero.
  public var isZero: Bool {
    byteCount == 0
      || (base.load(as: UInt8.self) == 0 && memcmp(base, base + 1, byteCount - 1) == 0)
  }

  /// A piece of a buffer that is all zeros, or is to be taken as data.
  public struct Run: Hashable, Sendable {
    /// Counted from the start of the buffer.
    public let sectors: Range<Sector>
    /// Whether it is zeros.
    public let isZero: Bool
  }

  /// Cuts the buffer into runs of zeros and of data.
  ///
  /// - Parameters:
  ///   - block: the unit in which zeros are looked for.
  ///   - start: the place of the buffer on a device, at whose blocks it is cut.
  ///   - shortestZero: shorter runs of zeros count as data.
  public func runs(block: Sector, at start: Sector, shortestZero: Sector) -> [Run] {
    precondition(block > .zero)
    var runs: [Run] = []
    var zeroStart: Sector?
    // Takes in what lies before `end`: zeros from `zeroStart` on if they are enough.
    func closeZero(_ end: Sector) {
      guard let first = zeroStart else { return }
      zeroStart = nil
      let isZero = end - first >= shortestZero
      append(first..<end, isZero)
    }
    func append(_ sectors: Range<Sector>, _ isZero: Bool) {
      if let last = runs.last, last.isZero == isZero {
        runs[runs.count - 1] = Run(
          sectors: last.sectors.lowerBound..<sectors.upperBound, isZero: isZero)
      } else {
        runs.append(Run(sectors: sectors, isZero: isZero))
      }
    }
    var position = Sector.zero
    while position < sectorCount {
      let room = block - Sector((start + position).rawValue % block.rawValue)
      let end = min(position + room, sectorCount)
      if slice(position, end - position).isZero {
        zeroStart = zeroStart ?? position
      } else {
        closeZero(position)
        append(position..<end, false)
      }
      position = end
    }
    closeZero(sectorCount)
    return runs
  }

  /// The sectors, counted from the start of the buffer, in which `other` – of the same length –
  /// has other bytes.
  public func differences(from other: IOBuffer) -> RangeSet<Sector> {
    precondition(byteCount == other.byteCount)
    var found = RangeSet<Sector>()
    guard memcmp(base, other.base, byteCount) != 0 else { return found }
    for offset in stride(from: 0, to: byteCount, by: 512)
    where memcmp(base + offset, other.base + offset, 512) != 0 {
      let sector = Sector(UInt64(offset) / Sector.byteCount)
      found.insert(sector..<sector + 1)
    }
    return found
  }

  /// Zeros, 1 MiB of them, shared by the whole process: only ever a source of writes.
  public static let zeroes: IOBuffer = {
    let byteCount = 1 << 20
    guard let base = blockio_map(byteCount, 4096) else {
      preconditionFailure("no memory for a page of zeros: \(Errno(rawValue: errno))")
    }
    // Never unmapped, never written: valid and constant for as long as the process lives.
    return IOBuffer(base: base, byteCount: byteCount)
  }()
}
