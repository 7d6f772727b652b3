public import BlockIO
import SystemPackage

/// `error [DEVICE START]`: everything fails; a device is only there for its limits.
public final class ErrorTarget: Target {
  public let sectors: Range<Sector>
  private let mapping: Mapping?
  private let deviceName: String

  init(_ sectors: Range<Sector>, _ mapping: Mapping?, deviceName: String) {
    self.sectors = sectors
    self.mapping = mapping
    self.deviceName = deviceName
  }

  /// How it is made.
  public struct Kind: TargetType {
    public let name = "error"
    public let version = "1.7.0"

    public func make(_ context: TargetContext) async throws(DeviceMapperError) -> any Target {
      var arguments = context.arguments
      let mapping = arguments.isAtEnd ? nil : try await arguments.mapping(.read)
      try arguments.finish()
      return ErrorTarget(context.sectors, mapping, deviceName: context.deviceName)
    }
  }

  public var limits: DeviceLimits? {
    guard var limits = mapping?.device.limits else { return nil }
    // It was opened for reading only because nothing reaches it.
    limits.isReadOnly = false
    return limits
  }
  /// Nothing was ever written to it: beside other targets it doesn't let their flushes fail.
  public var wantsFlush: Bool { false }

  private func failure(_ operation: IOFailure.Operation, _ sectors: Range<Sector>?) -> IOFailure {
    IOFailure(operation, deviceName, sectors, errno: .ioError, detail: "the target is 'error'")
  }

  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    throw failure(.read, sectors)
  }

  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) { throw failure(.write, sectors) }

  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    throw failure(.writeZeroes, sectors)
  }

  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    throw failure(.discard, sectors)
  }

  public func flush() async throws(IOFailure) { throw failure(.flush, nil) }
  public func table(_ labels: DeviceLabels) async -> String { mapping?.words(labels) ?? "" }
}
