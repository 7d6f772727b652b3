public import BlockIO
import Synchronization

/// A device that tables use: opened once for all of them.
public final class TableDevice: Sendable {
  /// The device.
  public let device: any BlockDevice
  /// The word by which the table calls it.
  public let word: TableWord
  /// Whether it may be written.
  public let isWritable: Bool

  let key: OpenDevices.Key
  /// Its size; of a mapped device that has only an inactive table, the one it will have.
  let sectorCount: Sector

  init(
    _ device: any BlockDevice, _ word: TableWord, isWritable: Bool, key: OpenDevices.Key,
    sectorCount: Sector? = nil
  ) {
    // A file may end within a sector, which could be written only in part.
    self.sectorCount = sectorCount ?? device.wholeSectorCount
    self.device = device
    self.word = word
    self.isWritable = isWritable
    self.key = key
  }

  /// Refuses a verb that has to read the device at once and would wait for its resume. On the loop.
  func requireRunning() throws(DeviceMapperError) {
    guard let suspended = (device as? MappedDevice)?.suspendedHere else { return }
    let isItself = suspended === device
    throw DeviceMapperError(
      .state, line: word.line, word: word.position,
      isItself
        ? "'\(word.text)' is suspended"
        : "'\(word.text)' stands on '\(suspended.name)', which is suspended",
      advice: "resume it first")
  }
}

/// Sectors of a device that a table writes.
struct DeviceClaim: Sendable {
  let device: any BlockDevice
  let name: String
  /// nil: all, however large it becomes.
  let sectors: Range<Sector>?

  /// Whether both are about the same sectors, also of devices that lie on each other: a partition and
  /// its disk.
  func overlaps(_ other: DeviceClaim) -> Bool {
    if device.identity == other.device.identity, sectors == nil || other.sectors == nil {
      return true
    }
    return region.overlaps(other.region)
  }

  private var region: IORegion {
    let sectors = sectors ?? .zero..<device.sectorCount
    return IORegion(device, sector: sectors.lowerBound, count: sectors.length)
  }
}

/// The claims of a table, as its targets make them.
final class DeviceClaims: Sendable {
  private let claims = Mutex<[DeviceClaim]>([])

  func add(_ claim: DeviceClaim) { claims.withLock { $0.append(claim) } }

  var all: [DeviceClaim] { claims.withLock { $0 } }
}
