import BlockIO
import Synchronization

/// A mapped device in use. Close it when it isn't used any more, and no request is under way.
public final class DeviceHandle: Sendable {
  /// The device.
  public let device: MappedDevice

  private let mapper: DeviceMapper
  private let isClosed = Atomic<Bool>(false)

  init(_ device: MappedDevice, _ mapper: DeviceMapper) {
    self.device = device
    self.mapper = mapper
  }

  /// Gives the device back. Once more does nothing.
  public func close() async {
    guard !isClosed.exchange(true, ordering: .relaxed) else { return }
    await mapper.close(device.minor)
  }

  deinit {
    guard !isClosed.load(ordering: .relaxed) else { return }
    let (mapper, minor) = (mapper, device.minor)
    Task(executorPreference: mapper.loop) { await mapper.close(minor) }
  }
}
