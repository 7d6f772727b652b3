public import BlockIO

/// What a line of a table is made into: takes the requests for its sectors.
///
/// Requests come on the mapped device's loop – but for those that needn't wait –, in that device's
/// sectors and within ``sectors``, any number at once. Failures name the mapped device's sectors; one
/// for which ``IOFailure/isPushedBack`` holds has the request done again after the next resume.
public protocol Target: AnyObject, Sendable {
  /// The sectors of the mapped device.
  var sectors: Range<Sector> { get }
  /// What the devices below can do; nil where there are none.
  var limits: DeviceLimits? { get }
  /// The most sectors of one request; a request doesn't cross a multiple of it, counted from the
  /// start of the target. nil: any number.
  var maximumRequest: Sector? { get }
  /// Whether it wants flushes.
  var wantsFlush: Bool { get }

  /// Reads.
  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure)
  /// Writes.
  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure)
  /// Reads without waiting, from any thread; as ``BlockDevice/readNow(_:into:)``.
  func readNow(_ sectors: Range<Sector>, into buffer: IOBuffer) throws(IOFailure) -> Bool
  /// Writes without waiting, from any thread; as ``BlockDevice/writeNow(_:from:options:)``.
  func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool
  /// Makes sectors read as zeros.
  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure)
  /// Gives sectors up.
  func discard(_ sectors: Range<Sector>) async throws(IOFailure)
  /// Makes what has been written durable.
  func flush() async throws(IOFailure)
  /// What is known of sectors, in order and without gaps; at most `limit` extents.
  func blockStatus(_ sectors: Range<Sector>, limit: Int) async throws(IOFailure) -> [BlockExtent]

  /// How it is doing, for programs; nil where there is nothing to tell.
  var figures: TargetFigures? { get async }
  /// The status line from behind the target's name on.
  func status(_ labels: DeviceLabels) async -> String
  /// The table line from behind the target's name on.
  func table(_ labels: DeviceLabels) async -> String
  /// Does what a message says.
  ///
  /// - Returns: the reply, if there is one.
  func message(_ words: [String]) async throws(DeviceMapperError) -> String?

  /// New requests don't come any more: let those go that are held back. With `isNoFlush` they may be
  /// pushed back; otherwise they must end.
  func presuspend(isNoFlush: Bool) async
  /// Nothing is under way any more.
  func postsuspend() async
  /// The last step that can be refused before requests come.
  func preresume() async throws(DeviceMapperError)
  /// Requests come from now on.
  func resume() async
  /// The table goes; the target is suspended, or was never resumed.
  func destroy() async
}

extension Target {
  public var maximumRequest: Sector? { nil }
  public var wantsFlush: Bool { true }
  public var figures: TargetFigures? { get async { nil } }
  public func status(_ labels: DeviceLabels) async -> String { "" }
  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool { false }
  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool { false }
  public func message(_ words: [String]) async throws(DeviceMapperError) -> String? {
    throw DeviceMapperError(.message, "the target takes no messages")
  }
  public func presuspend(isNoFlush: Bool) async {}
  public func postsuspend() async {}
  public func preresume() async throws(DeviceMapperError) {}
  public func resume() async {}
  public func destroy() async {}

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    [BlockExtent(sectors, .unknown)]
  }
}

/// A kind of target: what a table line calls it, and how it is made.
public protocol TargetType: Sendable {
  /// The name in table lines.
  var name: String { get }
  /// The version that `targets` prints.
  var version: String { get }
  /// Makes a target of a line, devices opened and metadata read; it isn't running yet.
  func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target
}

/// How devices are called in status and table lines.
public struct DeviceLabels: Sendable {
  let label: @Sendable (TableDevice) -> String

  /// What a device is called.
  public func callAsFunction(_ device: TableDevice) -> String { TableText.quoted(label(device)) }
}
