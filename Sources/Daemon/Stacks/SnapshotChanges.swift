import DeviceMapper

// What the snapshot verbs make of a state. Pure: no device is touched here.

extension DaemonState {
  /// Adds snapshots. A device that isn't an origin yet becomes one over a new device, named after
  /// it with `-real`, that takes its table.
  mutating func takeSnapshots(_ orders: [SnapshotOrder]) throws(ControlFailure) {
    guard !orders.isEmpty else { throw .refused("no snapshot is asked for") }
    for order in orders {
      try checkFree(order.name)
      let (record, table) = try device(order.origin)
      try checkIdle(order.origin)
      let base: String
      switch table.shape {
      case .origin(let below): base = below
      case .merge: throw .refused("a snapshot is being merged into '\(order.origin)'")
      case .snapshot:
        throw .refused("'\(order.origin)' is a snapshot; snapshots of snapshots aren't taken")
      default:
        base = "\(order.origin)-real"
        guard self[device: base] == nil else {
          throw .refused("'\(base)', which '\(order.origin)' would stand on, is in use as a name")
        }
        let real = SavedDevice(name: base, table: record.table, isReadOnly: record.isReadOnly)
        devices.insert(real, at: devices.firstIndex { $0.name == order.origin } ?? 0)
        update(order.origin) {
          $0.table = DeviceTable.text(table.length, "snapshot-origin", [base])
        }
      }
      devices.append(
        SavedDevice(
          name: order.name,
          table: DeviceTable.text(
            table.length, "snapshot",
            [base, order.cow, "P", String(order.chunkSectors)] + order.features)))
    }
  }

  /// A snapshot with its origin, as the tables say.
  struct SnapshotPlace {
    var record: SavedDevice
    var table: DeviceTable
    var base: String
    var cow: String
    /// The device that is written, an origin or a merge over `base`; nil: there is none.
    var origin: String?
  }

  func snapshot(_ name: String) throws(ControlFailure) -> SnapshotPlace {
    let (record, table) = try device(name)
    guard case .snapshot(let base, let cow) = table.shape else {
      throw .refused("'\(name)' is no snapshot")
    }
    return SnapshotPlace(
      record: record, table: table, base: base, cow: cow, origin: origin(over: base))
  }

  /// The origin that stands on a device.
  func origin(over base: String) -> String? {
    devices.first { originBase($0) == base }?.name
  }

  /// The device below an origin, or a merge.
  func originBase(_ record: SavedDevice) -> String? {
    switch shape(of: record) {
    case .origin(let below), .merge(let below, _): below
    default: nil
    }
  }

  private func shape(of record: SavedDevice) -> DeviceTable.Shape {
    guard let text = record.table, let table = try? DeviceTable(text, of: record.name) else {
      return .other
    }
    return table.shape
  }

  /// The snapshots of a device.
  func snapshots(of base: String) -> [String] {
    devices.filter {
      if case .snapshot(base, _) = shape(of: $0) { true } else { false }
    }.map(\.name)
  }

  /// Takes a snapshot away; its origin is what it was before when that was the last one.
  mutating func dropSnapshot(_ name: String) throws(ControlFailure) {
    let place = try snapshot(name)
    try checkUnused(name)
    devices.removeAll { $0.name == name }
    if let origin = place.origin, case .origin = try device(origin).table.shape {
      collapse(origin, over: place.base)
    }
  }

  private func checkUnused(_ name: String) throws(ControlFailure) {
    if let user = above(name).first {
      throw .refused("'\(name)' is used by the table of '\(user)'")
    }
  }

  /// Has an origin without snapshots stand where the device below it does.
  private mutating func collapse(_ origin: String, over base: String) {
    guard snapshots(of: base).isEmpty, operation(on: base) == nil, base == "\(origin)-real",
      above(base) == [origin],
      let table = self[device: base]?.table
    else { return }
    update(origin) { $0.table = table }
    devices.removeAll { $0.name == base }
  }

  /// Has a snapshot be merged into its origin; the snapshot's device goes.
  mutating func beginMerge(_ name: String) throws(ControlFailure) {
    let place = try snapshot(name)
    try checkUnused(name)
    guard let origin = place.origin else {
      throw .refused("no device is the origin of '\(name)': none stands on '\(place.base)'")
    }
    try checkIdle(origin)
    guard self[device: origin]?.isReadOnly == false else {
      throw .refused("'\(origin)' is read-only: nothing can be merged into it")
    }
    devices.removeAll { $0.name == name }
    let words = place.table.description.lines[0].words.map(\.text)
    update(origin) {
      $0.table = DeviceTable.text(
        place.table.length, "snapshot-merge", Array(words.prefix(4)))
    }
    operations.append(
      SavedOperation(kind: .merge, device: origin, target: origin, snapshot: place.record))
  }

  /// After all has been merged.
  mutating func endMerge(of origin: String) throws(ControlFailure) {
    let (_, table) = try device(origin)
    guard case .merge(let base, _) = table.shape else { return }
    update(origin) { $0.table = DeviceTable.text(table.length, "snapshot-origin", [base]) }
    operations.removeAll { $0.kind == .merge && $0.device == origin }
    collapse(origin, over: base)
  }
}
