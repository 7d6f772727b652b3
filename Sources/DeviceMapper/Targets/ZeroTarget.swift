public import BlockIO

/// `zero`: reads give zeros, what is written vanishes.
public final class ZeroTarget: Target {
  public let sectors: Range<Sector>

  init(_ sectors: Range<Sector>) { self.sectors = sectors }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "zero"
    public let version = "1.2.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      try context.arguments.finish()
      return ZeroTarget(context.sectors)
    }
  }

  public var limits: DeviceLimits? { nil }
  public var wantsFlush: Bool { false }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    buffer.clear()
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {}

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {}
  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {}
  public func flush() async throws(IOFailure) {}

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] { [BlockExtent(sectors, .zero)] }

  public func table(_ labels: DeviceLabels) async -> String { "" }
}
