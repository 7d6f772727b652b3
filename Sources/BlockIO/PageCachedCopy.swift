/// The shortest way for files in the page cache: a thread reads a piece and writes it to all
/// destinations in one go, while the piece is still in its processor's cache.
public struct PageCachedCopy: Sendable {
  private let source: PageCachedFile
  private let destinations: [PageCachedFile]

  /// A destination of one piece.
  public struct Target: Sendable {
    let index: Int
    let sectors: Range<Sector>

    /// The sectors of the destination of that index.
    public init(index: Int, sectors: Range<Sector>) {
      self.index = index
      self.sectors = sectors
    }
  }

  /// What became of a piece.
  public struct Outcome: Sendable {
    /// Why it couldn't be read; nothing was written then.
    public var readFailure: IOFailure?
    /// The destinations, by index, that couldn't be written.
    public var writeFailures: [(index: Int, failure: IOFailure)] = []
  }

  /// nil unless all ends are files in the page cache.
  public init?(source: any BlockDevice, destinations: [any BlockDevice]) {
    let files = destinations.compactMap(\.pageCachedFile)
    guard let source = source.pageCachedFile, files.count == destinations.count else { return nil }
    self.source = source
    self.destinations = files
  }

  /// How many pieces keep the threads of `loop` busy: one more than there are threads.
  public static func parallelism(on loop: IOLoop) -> Int { loop.transferThreads + 1 }

  /// Copies `sectors` of the source to the targets through `buffer`, which has their length.
  public func run(
    _ sectors: Range<Sector>, to targets: [Target], through buffer: IOBuffer, on loop: IOLoop
  ) async -> Outcome {
    return await loop.transferring {
      copy(sectors, to: targets, through: buffer)
    }
  }

  private func copy(
    _ sectors: Range<Sector>, to targets: [Target], through buffer: IOBuffer
  ) -> Outcome {
    var outcome = Outcome()
    do throws(IOFailure) {
      try source.read(sectors, into: buffer)
    } catch {
      outcome.readFailure = error
      return outcome
    }
    for target in targets {
      do throws(IOFailure) {
        try destinations[target.index].write(target.sectors, from: buffer, options: [])
      } catch {
        outcome.writeFailures.append((target.index, error))
      }
    }
    return outcome
  }
}

// MARK: On the spot

extension PageCachedCopy {
  /// The largest copy that is tried on the spot, in bytes.
  public static let onTheSpotLimit = FileDevice.onTheSpotLimit

  /// Copies a small region here and now, if all ends are files in the page cache and nothing has
  /// to wait for a disk. The regions must not overlap.
  ///
  /// - Returns: whether everything was copied. If not, any part may have been: do it again in
  ///   another way, to the same effect, and learn there what failed.
  public static func onTheSpot(
    from source: IORegion, to destinations: [IORegion], through buffer: IOBuffer
  ) -> Bool {
    guard let file = source.device.pageCachedFile else { return false }
    do throws(IOFailure) {
      for destination in destinations {
        guard let file = destination.device.pageCachedFile, file.mayWriteOnTheSpot else {
          return false
        }
      }
      guard try file.readOnTheSpot(source.sectors, into: buffer) == .done else { return false }
      for destination in destinations where destination.count > .zero {
        guard let file = destination.device.pageCachedFile,
          try file.writeOnTheSpot(destination.sectors, from: buffer) == .done
        else { return false }
      }
      return true
    } catch {
      return false
    }
  }
}
