import BlockIO
import DeviceMapper

// The verbs of dmsetup, each saved before it is acknowledged.

extension DeviceKeeper {
  func create(
    _ name: String, uuid: String?, table: String?, isReadOnly: Bool, isOwnTable: Bool = false
  ) async throws(ControlFailure) {
    try await create(
      [DeviceOrder(name: name, uuid: uuid, table: table, readOnly: isReadOnly)],
      isOwnTable: isOwnTable)
  }

  /// All of them or none, in whatever order they stand on each other.
  func create(_ orders: [DeviceOrder], isOwnTable: Bool = false) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      var next = state
      for order in orders {
        try next.checkFree(order.name)
        if let table = order.table { try checkPaths(table, of: order.name) }
        next.devices.append(
          SavedDevice(
            name: order.name, uuid: order.uuid, table: order.table, isReadOnly: order.readOnly,
            isSuspended: order.table == nil))
      }
      try await change(to: next, isOwnTable: isOwnTable)
    }
  }

  func load(_ name: String, table: String) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      var record = try known(name)
      try checkThere(name)
      try checkPaths(table, of: name)
      try state.checkIdle(name)
      record.table = table
      try await load(record)
      inactive[name] = record
    }
  }

  func clear(_ name: String) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      _ = try known(name)
      try await mapped { () throws(DeviceMapperError) in try await mapper.clear(name) }
      inactive[name] = nil
    }
  }

  func suspend(_ name: String, isNoFlush: Bool) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      let record = try known(name)
      try checkThere(name)
      // What waits for a device that is suspended already would wait for good.
      for below in state.below(record) { try checkRunning(below) }
      var next = state
      next.update(name) { $0.isSuspended = true }
      try await save(next) { () throws(DeviceMapperError) in
        try await mapper.suspend(name, isNoFlush: isNoFlush)
      }
    }
  }

  func resume(_ name: String, isNoFlush: Bool) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      let record = try known(name)
      if problems[name] != nil { return try await tryAgain(name) }
      for below in state.below(record) { try checkRunning(below) }
      var next = state
      if let loaded = inactive[name] {
        for below in state.below(loaded) { try checkRunning(below) }
        next.update(name) { $0.table = loaded.table }
      } else if record.table == nil {
        throw .refused("'\(name)' has no table to resume with; kcopyd dm load \(name)")
      }
      next.update(name) { $0.isSuspended = false }
      try await resume(record, next, isNoFlush: isNoFlush)
    }
  }

  /// Saves a state and resumes a device as it says; what is refused then changes nothing.
  private func resume(
    _ record: SavedDevice, _ next: DaemonState, isNoFlush: Bool
  ) async throws(ControlFailure) {
    let name = record.name
    let before = state
    if inactive[name] != nil {
      try await mapped { () throws(DeviceMapperError) in
        try await mapper.suspend(name, isNoFlush: isNoFlush)
      }
    }
    do throws(ControlFailure) {
      try await save(next)
      try await mapped { () throws(DeviceMapperError) in
        try await mapper.resume(name, isNoFlush: isNoFlush)
      }
      inactive[name] = nil
    } catch {
      // A table that a target has refused is no longer there.
      if let info = try? await mapper.info(name), !info.hasInactiveTable { inactive[name] = nil }
      if !record.isSuspended {
        await attempt("resume", name) { () throws(DeviceMapperError) in
          try await mapper.goOn(name)
        }
      }
      try await save(before)
      throw error
    }
  }

  /// Tries to bring back what couldn't come back.
  private func tryAgain(_ name: String) async throws(ControlFailure) {
    await bringUp()
    await takeUp()
    if let problem = problems[name] {
      throw .failed("'\(name)' couldn't come back: \(problem)")
    }
  }

  func remove(
    _ name: String, isForced: Bool, isDeferred: Bool
  ) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      _ = try known(name)
      var next = state
      if isForced, let operation = state.operation(on: name), runners[operation.device] == nil {
        next.operations.removeAll { $0 == operation }
      } else {
        try state.checkIdle(name)
      }
      if isDeferred, !isForced, await isUsed(name) {
        next.update(name) { $0.isRemovalDeferred = true }
        return try await save(next)
      }
      if let user = state.above(name).first {
        throw .refused(
          "'\(name)' is used by the table of '\(user)'; remove that first, or --deferred has "
            + "'\(name)' go with it")
      }
      if let export = state.exports.first(where: { $0.device == name }), !isForced {
        throw .refused(
          "'\(name)' is exported as '\(export.export)'; kcopyd unexport \(export.export)")
      }
      next.devices.removeAll { $0.name == name }
      next.exports.removeAll { $0.device == name }
      try await remove(name, next, isForced: isForced)
    }
  }

  /// Whether tables or clients have a device open.
  private func isUsed(_ name: String) async -> Bool {
    if !state.above(name).isEmpty || state.exports.contains(where: { $0.device == name }) {
      return true
    }
    // Inactive tables, too.
    return await (try? mapper.info(name))?.openCount ?? 0 > 0
  }

  private func remove(
    _ name: String, _ next: DaemonState, isForced: Bool
  ) async throws(ControlFailure) {
    guard problems[name] == nil else {
      try await save(next)
      problems[name] = nil
      return
    }
    // Saved first, so that a state that can't be saved leaves the device alone.
    let stopped = state.exports.filter { $0.device == name }
    do throws(ControlFailure) {
      try await save(next) { () throws(DeviceMapperError) in
        for export in stopped { await exports.stop(export.export) }
        try await mapper.remove(name, isForced: isForced, retries: 5)
      }
    } catch {
      // Those that are served already stay as they are.
      for export in stopped { try await exports.start(export) }
      throw error
    }
    inactive[name] = nil
    endings[name] = nil
  }

  /// Takes devices away whose removal was deferred, and that nothing uses any more.
  func removeDeferred() async {
    // Nearly always there is none, and every verb comes by here.
    guard state.devices.contains(where: { $0.isRemovalDeferred == true }) else { return }
    for record in state.bottomUp.reversed() where record.isRemovalDeferred == true {
      guard await !isUsed(record.name), state.operation(on: record.name) == nil else { continue }
      await attempt("remove", record.name) { () throws(ControlFailure) in
        var next = state
        next.devices.removeAll { $0.name == record.name }
        try await remove(record.name, next, isForced: false)
      }
    }
  }

  func rename(_ name: String, to new: String, isUUID: Bool) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      _ = try known(name)
      try checkThere(name)
      try state.checkIdle(name)
      var next = state
      if isUUID {
        next.update(name) { $0.uuid = new }
        try await save(next) { () throws(DeviceMapperError) in
          try await mapper.setUUID(name, new)
        }
      } else {
        if let user = state.above(name).first {
          throw .refused("'\(name)' is called by that name in the table of '\(user)'")
        }
        try state.checkFree(new)
        next.update(name) { $0.name = new }
        for index in next.exports.indices where next.exports[index].device == name {
          next.exports[index].device = new
        }
        try await save(next) { () throws(DeviceMapperError) in
          try await mapper.rename(name, to: new)
        }
        inactive[new] = inactive.removeValue(forKey: name)
      }
    }
  }

  func wipe(_ name: String, isNoFlush: Bool) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      let record = try known(name)
      try checkThere(name)
      try state.checkIdle(name)
      guard let table = record.table else { throw .refused("'\(name)' has no table") }
      var next = state
      let length = try DeviceTable(table, of: name).length
      next.update(name) { $0.table = DeviceTable.text(length, "error", []) }
      try await change(to: next, noflush: isNoFlush)
    }
  }

  // MARK: Looking

  func known(_ name: String) throws(ControlFailure) -> SavedDevice {
    guard let record = state[device: name] else {
      throw .refused("there is no device '\(name)'; kcopyd dm ls shows those there are")
    }
    return record
  }

  /// The devices that are asked for and there.
  private func names(_ name: String?) throws(ControlFailure) -> [String] {
    guard let name else {
      return state.devices.map(\.name).filter { problems[$0] == nil }.sorted()
    }
    _ = try known(name)
    try checkThere(name)
    return [name]
  }

  func status(_ name: String?, isInactive: Bool) async throws(ControlFailure) -> ControlAnswer {
    try await lines(name) { (name) throws(DeviceMapperError) in
      try await mapper.status(name, isInactive: isInactive)
    }
  }

  func table(_ name: String?, isInactive: Bool) async throws(ControlFailure) -> ControlAnswer {
    try await lines(name) { (name) throws(DeviceMapperError) in
      try await mapper.table(name, isInactive: isInactive, usesNames: true)
    }
  }

  func deps(_ name: String?) async throws(ControlFailure) -> ControlAnswer {
    try await lines(name) { (name) throws(DeviceMapperError) in try await mapper.deps(name) }
  }

  func message(
    _ name: String, sector: UInt64, text: String
  ) async throws(ControlFailure) -> String? {
    _ = try known(name)
    try checkThere(name)
    if text == "@cancel_deferred_remove" {
      try await exclusively { () throws(ControlFailure) in
        var next = state
        next.update(name) { $0.isRemovalDeferred = nil }
        try await save(next)
      }
      return nil
    }
    return try await mapped { () throws(DeviceMapperError) in
      try await mapper.message(name, sector: Sector(sector), text)
    }
  }

  nonisolated var targets: [TargetSummary] {
    mapper.targets.map { TargetSummary(name: $0.name, version: "v\($0.version)") }
  }

  private func lines(
    _ name: String?, _ body: (String) async throws(DeviceMapperError) -> [String]
  ) async throws(ControlFailure) -> ControlAnswer {
    var devices: [DeviceLines] = []
    for name in try names(name) {
      do throws(DeviceMapperError) {
        devices.append(DeviceLines(name: name, lines: try await body(name)))
      } catch {
        // It may have gone meanwhile.
        if error.kind != .missing { throw .refused(error.description) }
      }
    }
    return .lines(devices: devices)
  }

  func info(_ name: String?) async throws(ControlFailure) -> [DeviceSummary] {
    var devices: [DeviceSummary] = []
    if let name { _ = try known(name) }
    for record in state.devices.sorted(by: { $0.name < $1.name })
    where name == nil || record.name == name {
      if let info = try? await mapper.info(record.name) {
        devices.append(
          DeviceSummary(
            info, isRemovalDeferred: record.isRemovalDeferred == true,
            operation: operationText(record.name)))
      } else {
        devices.append(DeviceSummary(absent: record, problem: problems[record.name]))
      }
    }
    return devices
  }

  private func operationText(_ name: String) -> String? {
    guard let operation = state.operation(on: name) else { return nil }
    let now = progress[operation.device]
    let part = now.map { $0.total > 0 ? " (\($0.done * 100 / $0.total) %)" : "" } ?? ""
    if let trouble = runners[operation.device]?.trouble {
      return "\(operation.inWords)\(part): \(trouble)"
    }
    if runners[operation.device] == nil, case .failure(let failure)? = endings[operation.device] {
      return "\(operation.inWords)\(part): \(failure)"
    }
    return operation.inWords + part
  }

  /// Waits until the event number of a device isn't `event` any more.
  func wait(_ name: String, event: UInt32?) async throws(ControlFailure) -> UInt32 {
    _ = try known(name)
    try checkThere(name)
    return try await mapped { () throws(DeviceMapperError) in
      try await mapper.wait(name, number: event)
    }
  }

  /// A relative path would be one from the daemon's folder, which nobody means.
  func checkPaths(_ text: String, of name: String) throws(ControlFailure) {
    let table = try DeviceTable(text, of: name)
    for line in table.description.lines {
      for word in line.words
      where word.text.contains("/") && !word.text.hasPrefix("/") && !word.text.contains("://") {
        throw .refused(
          "'\(name)' line \(word.line) word \(word.position): '\(word.text)' is no whole path; "
            + "begin it with /")
      }
      // Numbers are given anew at each start.
      let prefix = "\(mapper.configuration.major):"
      if let word = line.words.first(where: { $0.text.hasPrefix(prefix) }) {
        throw .refused(
          "'\(name)' line \(word.line) word \(word.position): call the device by its name: "
            + "'\(word.text)' may be another one after a restart")
      }
    }
  }
}

extension DeviceSummary {
  /// A device that is there.
  init(_ info: DeviceInfo, isRemovalDeferred: Bool, operation: String?) {
    self.init(
      name: info.name, uuid: info.uuid.isEmpty ? nil : info.uuid, minor: UInt32(info.minor),
      isSuspended: info.isSuspended, isReadOnly: info.isReadOnly, hasLive: info.hasLiveTable,
      hasInactive: info.hasInactiveTable, openCount: info.openCount,
      eventNumber: UInt64(info.eventNumber), targetCount: info.targetCount,
      sectorCount: info.sectorCount.rawValue, isRemovalDeferred: isRemovalDeferred,
      operation: operation, problem: nil)
  }

  /// A device that isn't there.
  init(absent record: SavedDevice, problem: String?) {
    self.init(
      name: record.name, uuid: record.uuid, minor: 0, isSuspended: true,
      isReadOnly: record.isReadOnly, hasLive: false, hasInactive: false, openCount: 0,
      eventNumber: 0, targetCount: 0, sectorCount: 0, isRemovalDeferred: false, operation: nil,
      problem: problem ?? "it isn't there")
  }
}
