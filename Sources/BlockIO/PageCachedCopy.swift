/// The shortest way for files in the page cache: a thread reads a piece and writes it to all
/// destinations in one go, while the piece is still in its processor's cache. Small pieces that
/// needn't wait for a disk are copied on the spot, without leaving the loop.
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
    if buffer.byteCount <= FileDevice.onTheSpotLimit,
      targets.allSatisfy({ destinations[$0.index].mayWriteOnTheSpot }),
      let outcome = runOnTheSpot(sectors, to: targets, through: buffer)
    {
      return outcome
    }
    return await loop.transferring {
      copy(sectors, to: targets, through: buffer)
    }
  }

  /// nil when something would have to wait. It is done all over again then, to the same effect.
  private func runOnTheSpot(
    _ sectors: Range<Sector>, to targets: [Target], through buffer: IOBuffer
  ) -> Outcome? {
    var outcome = Outcome()
    do throws(IOFailure) {
      guard try source.readOnTheSpot(sectors, into: buffer) == .done else { return nil }
    } catch {
      outcome.readFailure = error
      return outcome
    }
    for target in targets {
      do throws(IOFailure) {
        let file = destinations[target.index]
        guard try file.writeOnTheSpot(target.sectors, from: buffer) == .done else { return nil }
      } catch {
        outcome.writeFailures.append((target.index, error))
      }
    }
    return outcome
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
