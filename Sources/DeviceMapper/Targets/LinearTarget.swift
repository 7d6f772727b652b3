public import BlockIO

/// `linear DEVICE START`: sectors of another device.
public final class LinearTarget: Target {
  public let sectors: Range<Sector>
  private let mapping: Mapping

  init(_ mapping: Mapping, _ sectors: Range<Sector>) {
    self.mapping = mapping
    self.sectors = sectors
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "linear"
    public let version = "1.5.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      var arguments = context.arguments
      let mapping = try await arguments.mapping()
      try arguments.finish()
      return LinearTarget(mapping, context.sectors)
    }
  }

  public var limits: DeviceLimits? { mapping.device.limits }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await mapping.read(sectors, into: buffer)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    try await mapping.write(sectors, from: buffer, options: options)
  }

  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool {
    try mapping.device.readNow(mapping.below(sectors), into: buffer)
  }

  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool {
    try mapping.device.writeNow(mapping.below(sectors), from: buffer, options: options)
  }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await mapping.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    try await mapping.discard(sectors)
  }

  public func flush() async throws(IOFailure) { try await mapping.flush() }

  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try await mapping.blockStatus(sectors, limit: limit)
  }

  public func table(_ labels: DeviceLabels) async -> String { mapping.words(labels) }
}
