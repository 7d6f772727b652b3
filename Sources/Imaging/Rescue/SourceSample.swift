public import BlockIO
import Crypto

/// Sectors by which a source, and what was copied from it, are known again.
public enum SourceSample {
  /// How many are kept.
  static let count: UInt64 = 16

  /// Where they are: from the first to the last sector of `sectors`.
  static func places(in sectors: Range<Sector>) -> [Sector] {
    let steps = min(count, sectors.length.rawValue)
    // In even steps, and the last one besides.
    let step = sectors.length.rawValue / max(1, steps)
    var places = (0..<steps).map { sectors.lowerBound + Sector($0 * step) }
    if let last = places.popLast() { places.append(max(last, sectors.upperBound - 1)) }
    return places
  }

  /// Reads one; nil if that isn't possible.
  static func take(
    _ device: any BlockDevice, _ sector: Sector, _ buffer: IOBuffer
  ) async -> ProgressRecord.Sample? {
    guard let sum = await sum(device, sector, buffer) else { return nil }
    return .init(sector: sector.rawValue, sha256: sum)
  }

  private static func sum(
    _ device: any BlockDevice, _ sector: Sector, _ buffer: IOBuffer
  ) async -> String? {
    var bytes = [UInt8](repeating: 0, count: 512)
    do throws(IOFailure) {
      let part = buffer.slice(.zero, 1)
      try await device.read(sector..<sector + 1, into: part)
      part.store(into: &bytes)
    } catch {
      return nil
    }
    return SHA256.hash(data: bytes).hexadecimal
  }

  /// Looks at a few sectors of what a map says is there.
  ///
  /// - Throws: when the source has other content than it had, or a destination another one than
  ///   the source. What can't be read says nothing.
  public static func verify(
    _ resumption: Resumption, source: IORegion, targets: [IORegion]
  ) async throws(MapRefusal) {
    let pages: Pages
    do throws(IOFailure) {
      pages = try PagePool.lend(holding: 1)
    } catch {
      throw MapRefusal(error.description)
    }
    for sample in resumption.samples where source.sectors.contains(Sector(sample.sector)) {
      let sum = await sum(source.device, Sector(sample.sector), pages.buffer)
      guard sum == nil || sum == sample.sha256 else {
        throw MapRefusal(
          "the map is of another source: sector \(sample.sector) of '\(source.device.name)' holds"
            + " something else than it did")
      }
    }
    for (target, durable) in zip(targets, resumption.durable) {
      let ends =
        durable.ranges.prefix(4).map { $0.upperBound - 1 }
        + durable.ranges.suffix(4).map { $0.upperBound - 1 }
      let sampled = resumption.samples.map { Sector($0.sector) }.filter(durable.contains)
      for sector in ends + sampled {
        let there = target.sector + (sector - source.sector)
        guard let expected = await sum(source.device, sector, pages.buffer),
          let found = await sum(target.device, there, pages.buffer)
        else { continue }
        guard found == expected else {
          throw MapRefusal(
            "'\(target.device.name)' doesn't hold what the map says: sector \(there.rawValue)"
              + " isn't that of the source; it, or the source, was changed or is another one")
        }
      }
    }
    pages.giveBack()
  }
}

extension Sequence<UInt8> {
  /// Two digits a byte.
  var hexadecimal: String {
    let digits = Array("0123456789abcdef")
    return reduce(into: "") {
      $0.append(digits[Int($1 >> 4)])
      $0.append(digits[Int($1 & 15)])
    }
  }
}
