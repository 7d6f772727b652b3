import BlockIO

/// A mapped device as the mapper keeps it. On the mapper's actor only.
final class DeviceEntry {
  var name: String
  var uuid: String
  let device: MappedDevice
  var minor: Int { device.minor }

  var live: MappedTable?
  var inactive: MappedTable?
  /// What the table that is being made has opened so far.
  var building: [TableDevice] = []

  var isSuspended = true
  var isRemoved = false
  /// Handles, and tables that use it.
  var openCount = 0
  var isRemovalDeferred = false
  var eventNumber: UInt32 = 0
  var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]

  private var isChanging = false
  private let changed = Gate()

  init(_ device: MappedDevice, name: String, uuid: String) {
    self.device = device
    self.name = name
    self.uuid = uuid
  }

  /// Waits for the verb before, and keeps others out.
  func lock(isolation: isolated (any Actor) = #isolation) async {
    while isChanging { await changed.wait { isChanging } }
    isChanging = true
  }

  func unlock() {
    isChanging = false
    changed.open()
  }

  /// The minor numbers of the mapped devices that its tables use.
  var below: Set<Int> {
    var found = Set<Int>()
    for device in (live?.devices ?? []) + (inactive?.devices ?? []) + building {
      if case .mapped(let minor) = device.key { found.insert(minor) }
    }
    return found
  }
}
