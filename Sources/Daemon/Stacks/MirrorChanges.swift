// What the mirror verbs and moving make of a state. Pure: no device is touched here.

extension DaemonState {
  /// The device whose table says where the data of `name` lie: itself, or what is below an origin.
  func bottom(of name: String) throws(ControlFailure) -> String {
    var name = name
    // Tables don't form loops; a bound all the same.
    for _ in 0..<64 {
      switch try device(name).table.shape {
      case .origin(let below), .merge(let below, _):
        guard self[device: below] != nil else { return name }
        name = below
      default: return name
      }
    }
    return name
  }

  // MARK: Moving

  /// Has a linear device move: until the end it is a mirror of the old place and the new one.
  mutating func beginMove(_ name: String, to device: String) throws(ControlFailure) {
    let target = try bottom(of: name)
    try checkIdle(name)
    try checkIdle(target)
    let table = try self.device(target).table
    guard case .linear(let place) = table.shape else {
      throw .refused(
        "'\(target)' isn't one linear line; only such a device is moved, and the legs of a mirror "
          + "are added and removed")
    }
    guard place.device != device else { throw .refused("'\(name)' lies on '\(device)' already") }
    let goal = Place(device: device, offset: "0")
    let mirror = MirrorShape(
      log: nil, region: MirrorShape.standardRegion(for: table.length), legs: [place, goal],
      features: ["handle_errors"])
    update(target) { $0.table = DeviceTable.text(table.length, "mirror", mirror.words) }
    operations.append(
      SavedOperation(kind: .move, device: name, target: target, from: place, to: goal))
  }

  /// Ends a move at the new place, or – `isAborted` – at the old one.
  mutating func endMove(of name: String, isAborted: Bool) throws(ControlFailure) {
    guard let operation = operation(on: name), operation.kind == .move,
      let from = operation.from, let to = operation.to
    else { throw .refused("'\(name)' isn't being moved") }
    let table = try device(operation.target).table
    update(operation.target) {
      $0.table = DeviceTable.text(table.length, "linear", (isAborted ? from : to).words)
    }
    operations.removeAll { $0 == operation }
  }

  // MARK: Legs

  /// Adds a leg. A linear device becomes a mirror with `log` and `sidecar`, and a mirror gets one leg more; all
  /// of it is copied from the first leg.
  mutating func addLeg(
    _ leg: String, to name: String, log: String, sidecar: String, region: UInt64?
  ) throws(ControlFailure) {
    let target = try bottom(of: name)
    try checkIdle(name)
    try checkIdle(target)
    let table = try device(target).table
    let goal = Place(device: leg, offset: "0")
    var mirror: MirrorShape
    switch table.shape {
    case .linear(let place):
      guard place.device != leg else { throw .refused("'\(name)' lies on '\(leg)' already") }
      mirror = MirrorShape(
        log: log, region: region ?? MirrorShape.standardRegion(for: table.length),
        legs: [place, goal], features: [], options: ["sidecar", sidecar])
    case .mirror(let known):
      guard region == nil || region == known.region else {
        throw .refused("the regions of '\(target)' have \(known.region) sectors already")
      }
      guard !known.legs.contains(where: { $0.device == leg }) else {
        throw .refused("'\(leg)' is a leg of '\(target)' already")
      }
      mirror = known
      mirror.legs.append(goal)
      // The log can't say which leg is new: all are brought up to the first one.
      mirror.policy = "sync"
    default:
      throw .refused("'\(target)' is neither one linear line nor a mirror")
    }
    update(target) { $0.table = DeviceTable.text(table.length, "mirror", mirror.words) }
    operations.append(SavedOperation(kind: .sync, device: name, target: target, to: goal))
  }

  /// All legs hold the same now: from the next start on the log counts again.
  mutating func endSync(of name: String) throws(ControlFailure) {
    guard let operation = operation(on: name), operation.kind == .sync else { return }
    operations.removeAll { $0 == operation }
    let table = try device(operation.target).table
    guard case .mirror(var mirror) = table.shape, mirror.policy == "sync" else { return }
    mirror.policy = nil
    update(operation.target) { $0.table = DeviceTable.text(table.length, "mirror", mirror.words) }
  }

  /// Takes a leg away; with one left the device is linear again.
  ///
  /// - Returns: the device whose table changed, and the files beside it that aren't used any more.
  @discardableResult
  mutating func removeLeg(
    _ leg: String, from name: String
  ) throws(ControlFailure) -> (target: String, place: Place, unused: [String]) {
    let target = try bottom(of: name)
    let table = try device(target).table
    guard case .mirror(var mirror) = table.shape else {
      throw .refused("'\(target)' is no mirror")
    }
    guard let index = mirror.legs.firstIndex(where: { $0.device == leg }) else {
      let legs = mirror.legs.map(\.device).joined(separator: "', '")
      throw .refused("'\(leg)' is no leg of '\(target)'; its legs are '\(legs)'")
    }
    if let move = operation(on: target), move.kind == .move {
      throw .refused("\(move.inWords); kcopyd move --abort \(move.device) ends that")
    }
    let place = mirror.legs.remove(at: index)
    operations.removeAll { $0.kind == .sync && $0.target == target && mirror.legs.count < 2 }
    operations.removeAll { $0.kind == .sync && $0.target == target && $0.to == place }
    var unused: [String] = []
    if mirror.legs.count == 1 {
      unused = (mirror.log.map { [$0] } ?? []) + mirror.options.filter { $0.hasPrefix("/") }
      update(target) { $0.table = DeviceTable.text(table.length, "linear", mirror.legs[0].words) }
    } else {
      update(target) { $0.table = DeviceTable.text(table.length, "mirror", mirror.words) }
    }
    return (target, place, unused)
  }
}
