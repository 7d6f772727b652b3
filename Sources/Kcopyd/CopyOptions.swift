/// How a job is done. The first two have the kernel's bit numbers.
public struct CopyOptions: OptionSet, Hashable, Sendable {
  /// The bits.
  public let rawValue: UInt32
  /// Options of these bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Errors don't end the job: sectors that can't be read are written as zeros – exactly those,
  /// found by reading again in ever smaller pieces – and everything else is copied
  /// (`KCOPYD_IGNORE_ERROR`).
  public static let ignoreErrors = CopyOptions(rawValue: 1 << 1)

  /// Each destination is written strictly in ascending order, one piece after the other, so that
  /// what is there is always a prefix. Reads still run ahead. Set by itself for zoned devices;
  /// ends ``ignoreErrors`` (`KCOPYD_WRITE_SEQ`).
  public static let sequentialWrites = CopyOptions(rawValue: 1 << 2)

  /// A destination that fails is left alone from then on, and the others are finished. Without it
  /// an error of one ends the job for all, as in the kernel.
  public static let dropFailedDestinations = CopyOptions(rawValue: 1 << 16)

  /// A piece of something larger, of which others are under way: that all threads end together
  /// with it is of no use.
  package static let oneOfMany = CopyOptions(rawValue: 1 << 17)
}

/// Why a job or a client was refused. Nothing was read or written.
public enum KcopydError: Error, Hashable, Sendable, CustomStringConvertible {
  /// No destination was given.
  case noDestinations
  /// More destinations than ``KcopydClient/maximumDestinations``.
  case tooManyDestinations(Int)
  /// A destination, by index, whose count is neither that of the source nor 0.
  case unequalCounts(destination: Int)
  /// A region whose end can't be addressed: the source, or the destination of that index.
  case unaddressable(destination: Int?)
  /// Two destinations share sectors: what they would hold afterwards is chance.
  case destinationsOverlap(Int, Int)
  /// The source overlaps one destination that lies above and one that lies below it: whatever the
  /// order, one of them would get sectors that were overwritten before.
  case sourceOverlapsBothWays
  /// The source and the destination of that index are different devices that share sectors: one is
  /// a partition of the other, or a loop device on it, or both lie on a third.
  case sourceLiesOnDestination(Int)
  /// A destination that must be written in ascending order overlaps the source from above, where
  /// only descending order is safe.
  case sequentialWritesOverlap
  /// The page reserve can't hold one sub-job.
  case reserveBelowSubJob(pages: Int, needed: Int)
  /// The system has not enough memory for the page reserve.
  case noMemory(pages: Int)
  /// The client was destroyed.
  case destroyed

  /// One line.
  public var description: String {
    switch self {
    case .noDestinations: "no destination"
    case .tooManyDestinations(let count):
      "\(count) destinations; the most is \(KcopydClient.maximumDestinations)"
    case .unequalCounts(let index):
      "destination \(index) has another number of sectors than the source"
    case .unaddressable(let index):
      "the end of \(index.map { "destination \($0)" } ?? "the source") can't be addressed"
    case .destinationsOverlap(let first, let second):
      "destinations \(first) and \(second) overlap"
    case .sourceOverlapsBothWays:
      "the source overlaps destinations both above and below it"
    case .sourceLiesOnDestination(let index):
      "the source and destination \(index) share sectors: one lies on the other"
    case .sequentialWritesOverlap:
      "a sequentially written destination overlaps the source from above"
    case .reserveBelowSubJob(let pages, let needed):
      "a reserve of \(pages) pages is below one sub-job (\(needed) pages)"
    case .noMemory(let pages): "no memory for a reserve of \(pages) pages"
    case .destroyed: "the client was destroyed"
    }
  }
}
