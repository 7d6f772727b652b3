import BlockIO
import SystemPackage

/// A table that has been made: targets that follow each other.
final class MappedTable: Sendable {
  let targets: [any Target]
  let description: TableDescription
  /// The devices it uses.
  let devices: [TableDevice]
  /// What of them it writes.
  let claims: [DeviceClaim]
  let sectorCount: Sector
  let limits: DeviceLimits

  init(
    _ description: TableDescription, _ targets: [any Target], _ devices: [TableDevice],
    _ claims: [DeviceClaim], isReadOnly: Bool
  ) {
    self.description = description
    self.targets = targets
    self.devices = devices
    self.claims = claims
    sectorCount = description.sectorCount
    limits = Self.stacked(targets.compactMap(\.limits), isReadOnly: isReadOnly)
  }

  /// What all the devices below can do together.
  private static func stacked(_ below: [DeviceLimits], isReadOnly: Bool) -> DeviceLimits {
    var limits = DeviceLimits()
    limits.logicalBlock = below.map(\.logicalBlock).max() ?? 512
    limits.physicalBlock = below.map(\.physicalBlock).max() ?? 512
    limits.optimalTransfer = below.map(\.optimalTransfer).min() ?? limits.optimalTransfer
    limits.maximumTransfer = below.compactMap(\.maximumTransfer).min()
    limits.isReadOnly = isReadOnly || below.contains(where: \.isReadOnly)
    limits.supportsFUA = below.allSatisfy(\.supportsFUA)
    limits.supportsDiscard = below.allSatisfy(\.supportsDiscard)
    limits.supportsWriteZeroes = below.allSatisfy(\.supportsWriteZeroes)
    limits.isZoned = below.contains(where: \.isZoned)
    return limits
  }

  /// The number of the target that a sector belongs to.
  func index(of sector: Sector) -> Int {
    var low = 0
    var high = targets.count - 1
    while low < high {
      let middle = (low + high + 1) / 2
      if targets[middle].sectors.lowerBound <= sector { low = middle } else { high = middle - 1 }
    }
    return low
  }

  /// The first part of `sectors` that may go to its target as one request.
  func part(_ sectors: Range<Sector>) -> (any Target, Range<Sector>) {
    let target = targets[index(of: sectors.lowerBound)]
    var end = min(sectors.upperBound, target.sectors.upperBound)
    if let most = target.maximumRequest {
      let within = (sectors.lowerBound - target.sectors.lowerBound).rawValue
      let boundary =
        target.sectors.lowerBound + Sector((within / most.rawValue + 1) * most.rawValue)
      end = min(end, boundary)
    }
    return (target, sectors.lowerBound..<end)
  }

  // MARK: Requests

  func perform(_ request: MappedRequest) async throws(IOFailure) {
    switch request {
    case .read(let sectors, let buffer):
      try await split(sectors) { (target, part) async throws(IOFailure) in
        try await target.read(
          part, into: buffer.slice(part.lowerBound - sectors.lowerBound, part.length))
      }
    case .write(let sectors, let buffer, let options):
      try await split(sectors) { (target, part) async throws(IOFailure) in
        try await target.write(
          part, from: buffer.slice(part.lowerBound - sectors.lowerBound, part.length),
          options: options)
      }
    case .writeZeroes(let sectors, let mayUnmap):
      try await split(sectors) { (target, part) async throws(IOFailure) in
        try await target.writeZeroes(part, mayUnmap: mayUnmap)
      }
    case .discard(let sectors):
      try await split(sectors) { (target, part) async throws(IOFailure) in
        try await target.discard(part)
      }
    case .flush: try await flush()
    }
  }

  /// Part after part; whatever fails, the others are done, too.
  private func split(
    _ sectors: Range<Sector>,
    _ body: (any Target, Range<Sector>) async throws(IOFailure) -> Void
  ) async throws(IOFailure) {
    var rest = sectors
    var first: IOFailure?
    while !rest.isEmpty {
      let (target, part) = part(rest)
      do throws(IOFailure) {
        try await body(target, part)
      } catch {
        if error.isPushedBack { throw error }
        // From the first failure on nothing is promised, so it must reach to the end.
        let from = error.sectors?.lowerBound ?? part.lowerBound
        first = first ?? error.moved(to: max(from, part.lowerBound)..<sectors.upperBound)
      }
      rest = part.upperBound..<rest.upperBound
    }
    if let first { throw first }
  }

  /// A flush of all: the first failure is told when all are over.
  private func flush() async throws(IOFailure) {
    var first: IOFailure?
    // A table of errors alone fails: what was written before it was loaded can't be flushed by it.
    let isWanted = targets.contains { $0.wantsFlush }
    for target in targets where target.wantsFlush || !isWanted {
      do throws(IOFailure) {
        try await target.flush()
      } catch {
        if error.isPushedBack { throw error }
        first = first ?? error
      }
    }
    if let first { throw first }
  }

  func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    var extents: [BlockExtent] = []
    var rest = sectors
    while !rest.isEmpty, extents.count < limit {
      let target = targets[index(of: rest.lowerBound)]
      let part = rest.clamped(to: target.sectors)
      let found = try await target.blockStatus(part, limit: limit - extents.count)
      guard let end = found.last?.sectors.upperBound else { break }
      extents += found
      rest = end..<rest.upperBound
    }
    return extents
  }
}

/// A request to a mapped device.
enum MappedRequest: Sendable {
  case read(Range<Sector>, IOBuffer)
  case write(Range<Sector>, IOBuffer, WriteOptions)
  case writeZeroes(Range<Sector>, mayUnmap: Bool)
  case discard(Range<Sector>)
  case flush

  var operation: IOFailure.Operation {
    switch self {
    case .read: .read
    case .write: .write
    case .writeZeroes: .writeZeroes
    case .discard: .discard
    case .flush: .flush
    }
  }

  var sectors: Range<Sector>? {
    switch self {
    case .read(let sectors, _), .write(let sectors, _, _), .writeZeroes(let sectors, _),
      .discard(let sectors):
      sectors
    case .flush: nil
    }
  }

  /// Whether a read-only device refuses it.
  var isWriting: Bool {
    switch self {
    case .read, .flush: false
    case .write, .writeZeroes, .discard: true
    }
  }
}
