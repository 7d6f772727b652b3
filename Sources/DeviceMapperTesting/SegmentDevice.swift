import BlockIO
import SystemPackage

/// Pieces of other devices one behind the other, some of which fail everything: what tables of
/// `linear`, `delay` and `error` lines make.
package final class SegmentDevice: BlockDevice {
  package struct Segment: Sendable {
    let sectors: Range<Sector>
    /// The device behind it and its first sector there; nil: every request fails.
    let target: (device: any BlockDevice, first: Sector)?
    /// How long writes are held back.
    var writeDelay = Duration.zero
  }

  package let name: String
  package let limits: DeviceLimits
  private let segments: [Segment]
  private let loop: IOLoop

  /// A device of segments that follow each other.
  package init(_ name: String, _ segments: [Segment], isReadOnly: Bool = false, on loop: IOLoop) {
    self.name = name
    self.segments = segments
    self.loop = loop
    var limits = DeviceLimits()
    limits.supportsFUA = true
    limits.isReadOnly = isReadOnly
    self.limits = limits
  }

  /// A device as it is, but read-only.
  package convenience init(readOnly device: any BlockDevice, on loop: IOLoop) {
    let all = Segment(sectors: 0..<device.sectorCount, target: (device, 0))
    self.init(device.name, [all], isReadOnly: true, on: loop)
  }

  package var sectorCount: Sector { segments.last?.sectors.upperBound ?? .zero }

  package func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try check(sectors, for: .read)
    for (part, segment) in parts(of: sectors) {
      guard let target = segment.target else {
        throw IOFailure(.read, name, part, errno: .ioError)
      }
      try await target.device.read(
        part.shifted(by: target.first, from: segment.sectors.lowerBound),
        into: buffer.slice(part.lowerBound - sectors.lowerBound, part.length))
    }
  }

  package func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try check(sectors, for: .write)
    guard !limits.isReadOnly else {
      throw IOFailure(.write, name, sectors, errno: .readOnlyFileSystem)
    }
    for (part, segment) in parts(of: sectors) {
      guard let target = segment.target else {
        throw IOFailure(.write, name, part, errno: .ioError)
      }
      if segment.writeDelay > .zero { await loop.sleep(for: segment.writeDelay) }
      try await target.device.write(
        part.shifted(by: target.first, from: segment.sectors.lowerBound),
        from: buffer.slice(part.lowerBound - sectors.lowerBound, part.length), options: options)
    }
  }

  package func flush() async throws(IOFailure) {
    for segment in segments { try await segment.target?.device.flush() }
  }

  private func parts(of sectors: Range<Sector>) -> [(Range<Sector>, Segment)] {
    segments.compactMap { segment in
      let part = sectors.clamped(to: segment.sectors)
      return part.isEmpty ? nil : (part, segment)
    }
  }
}

extension Range<Sector> {
  /// The same range counted from `first` instead of from `start`.
  fileprivate func shifted(by first: Sector, from start: Sector) -> Range<Sector> {
    lowerBound - start + first..<upperBound - start + first
  }
}
