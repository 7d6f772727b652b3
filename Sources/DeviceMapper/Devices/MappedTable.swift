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
  private let loop: IOLoop

  init(
    _ description: TableDescription, _ targets: [any Target], _ devices: [TableDevice],
    _ claims: [DeviceClaim], isReadOnly: Bool, on loop: IOLoop
  ) {
    self.loop = loop
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
    guard let sectors = request.sectors else { return try await flush() }
    let (target, first) = part(sectors)
    if first.upperBound == sectors.upperBound {
      if let failure = await request.failure(by: target) {
        throw failure.reaching(to: sectors.upperBound, from: first)
      }
    } else if let failure = await performInParts(request, sectors) {
      throw failure
    }
  }

  /// Does a read or a write that belongs to one target, if this can do it without waiting.
  func performNow(_ request: MappedRequest) throws(IOFailure) -> Bool {
    guard let sectors = request.sectors, !sectors.isEmpty, sectors.upperBound <= sectorCount else {
      return false
    }
    let (target, part) = part(sectors)
    guard part == sectors else { return false }
    switch request {
    case .read(_, let buffer): return try target.readNow(sectors, into: buffer)
    case .write(_, let buffer, let options):
      return try target.writeNow(sectors, from: buffer, options: options)
    case .writeZeroes, .discard, .flush: return false
    }
  }

  /// The most parts of a request that are under way at once.
  private static let partsAtOnce = 16

  /// Several parts at once; whatever fails, the others are done, too.
  ///
  /// - Returns: the failure of the first sector that has one.
  private func performInParts(
    _ request: MappedRequest, _ sectors: Range<Sector>
  ) async -> IOFailure? {
    await withTaskGroup(of: IOFailure?.self) { group in
      var rest = sectors
      var underWay = 0
      var failures: [IOFailure] = []
      while !rest.isEmpty || underWay > 0 {
        if !rest.isEmpty, underWay < Self.partsAtOnce {
          let (target, part) = part(rest)
          group.addTask(executorPreference: loop) {
            await request.part(part).failure(by: target)?
              .reaching(to: sectors.upperBound, from: part)
          }
          rest = part.upperBound..<rest.upperBound
          underWay += 1
        } else {
          if let failure = await group.next() ?? nil { failures.append(failure) }
          underWay -= 1
        }
      }
      return failures.first(where: \.isPushedBack)
        ?? failures.min { ($0.sectors?.lowerBound ?? .zero) < ($1.sectors?.lowerBound ?? .zero) }
    }
  }

  /// A flush of all at once: the failure of the first target that has one is told when all are over.
  private func flush() async throws(IOFailure) {
    // A table of errors alone fails: what was written before it was loaded can't be flushed by it.
    let wanted = targets.filter(\.wantsFlush)
    let flushed = wanted.isEmpty ? targets : wanted
    if flushed.count == 1 { return try await flushed[0].flush() }
    let failures = await withTaskGroup(of: (Int, IOFailure?).self) { group in
      var failures: [IOFailure?] = flushed.map { _ in nil }
      for (index, target) in flushed.enumerated() {
        if index >= Self.partsAtOnce, let (index, failure) = await group.next() {
          failures[index] = failure
        }
        group.addTask(executorPreference: loop) {
          (index, await MappedRequest.flush.failure(by: target))
        }
      }
      for await (index, failure) in group { failures[index] = failure }
      return failures.compactMap(\.self)
    }
    if let failure = failures.first(where: \.isPushedBack) ?? failures.first { throw failure }
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

  /// Has a target do it.
  ///
  /// - Returns: why it couldn't.
  func failure(by target: any Target) async -> IOFailure? {
    do throws(IOFailure) {
      switch self {
      case .read(let sectors, let buffer): try await target.read(sectors, into: buffer)
      case .write(let sectors, let buffer, let options):
        try await target.write(sectors, from: buffer, options: options)
      case .writeZeroes(let sectors, let mayUnmap):
        try await target.writeZeroes(sectors, mayUnmap: mayUnmap)
      case .discard(let sectors): try await target.discard(sectors)
      case .flush: try await target.flush()
      }
      return nil
    } catch {
      return error
    }
  }

  /// What it wants of some of its sectors.
  func part(_ part: Range<Sector>) -> MappedRequest {
    switch self {
    case .read(let sectors, let buffer):
      .read(part, buffer.slice(part.lowerBound - sectors.lowerBound, part.length))
    case .write(let sectors, let buffer, let options):
      .write(part, buffer.slice(part.lowerBound - sectors.lowerBound, part.length), options)
    case .writeZeroes(_, let mayUnmap): .writeZeroes(part, mayUnmap: mayUnmap)
    case .discard: .discard(part)
    case .flush: .flush
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

extension IOFailure {
  /// From the first failure on nothing is promised, so it must reach to the end of the request.
  fileprivate func reaching(to end: Sector, from part: Range<Sector>) -> IOFailure {
    if isPushedBack { return self }
    return moved(to: max(sectors?.lowerBound ?? part.lowerBound, part.lowerBound)..<end)
  }
}
