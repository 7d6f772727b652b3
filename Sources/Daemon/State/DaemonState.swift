/// What the daemon must find again after a restart: everything that has been acknowledged.
struct DaemonState: Codable, Hashable, Sendable {
  static let currentVersion = 1

  /// The version of the format.
  var version = DaemonState.currentVersion
  /// In the order in which they were made.
  var devices: [SavedDevice] = []
  var exports: [SavedExport] = []
  /// What goes on over restarts.
  var operations: [SavedOperation] = []

  subscript(device name: String) -> SavedDevice? {
    devices.first { $0.name == name }
  }

  /// Changes the record of a device that is there.
  mutating func update(_ name: String, _ change: (inout SavedDevice) -> Void) {
    guard let index = devices.firstIndex(where: { $0.name == name }) else { return }
    change(&devices[index])
  }

  /// Adds an export; one of a read-only device is read-only itself.
  @discardableResult
  mutating func export(
    _ device: String, as name: String, isReadOnly: Bool
  ) throws(ControlFailure) -> SavedExport {
    if let other = exports.first(where: { $0.export == name }) {
      throw .refused("there is an export '\(name)' already, of '\(other.device)'")
    }
    let record = SavedExport(
      export: name, device: device,
      isReadOnly: isReadOnly || self[device: device]?.isReadOnly == true)
    exports.append(record)
    return record
  }

  /// The merge of a snapshot that is no device any more.
  func merge(of snapshot: String) -> SavedOperation? {
    operations.first { $0.kind == .merge && $0.snapshot?.name == snapshot }
  }

  /// The operation that concerns a device.
  func operation(on device: String) -> SavedOperation? {
    operations.first { $0.devices.contains(device) }
  }
}

/// A device: all that its next life begins with.
struct SavedDevice: Codable, Hashable, Sendable {
  var name: String
  var uuid: String?
  /// The live table as dmsetup takes it; nil: none.
  var table: String?
  var isReadOnly = false
  var isSuspended = false
  /// Whether it goes when nothing uses it any more; nil: no.
  var isRemovalDeferred: Bool?
}

/// An export.
struct SavedExport: Codable, Hashable, Sendable {
  /// The name that clients ask for.
  var export: String
  var device: String
  var isReadOnly = false
}

/// A long operation. The tables in the same file say how far it is, so that at every moment the
/// two fit: a step is one replacement of the file.
struct SavedOperation: Codable, Hashable, Sendable {
  enum Kind: String, Codable, Sendable {
    /// A snapshot is merged into its origin.
    case merge
    /// A device moves to another place.
    case move
    /// Legs of a mirror are brought into sync.
    case sync
  }

  var kind: Kind
  /// What people call the device it is about.
  var device: String
  /// The device whose table says it: the same, or what lies below it.
  var target: String
  /// The snapshot that is merged: its last table, read again for its COW device.
  var snapshot: SavedDevice?
  /// The place that the device leaves, and the one it goes to.
  var from: Place?
  var to: Place?

  /// The devices that must not be changed otherwise meanwhile.
  var devices: [String] { [device, target] }
}
