import BlockIO
import DeviceMapper
import Logging

// From one state to the next, while the devices are in use: tables that can be made meanwhile are
// loaded, devices suspended from the top down, new devices and what stands on them made, the state
// saved, and devices resumed from the bottom up. Until the state is saved everything can be undone,
// and is if a step fails; from then on the new state is what a restart begins with. Requests wait
// meanwhile and none is lost. The log has each step (`--log debug`).

extension DeviceKeeper {
  /// What differs between two states.
  private struct Difference {
    /// New records of devices to be made, and of those that get another table; from the bottom up.
    var created: [SavedDevice] = []
    var changed: [SavedDevice] = []
    /// Those that only stand still, and all that go on afterwards; from the bottom up.
    var held: [SavedDevice] = []
    var resumed: [SavedDevice] = []
    /// Devices that go; from the top down.
    var removed: [SavedDevice] = []
    /// Exports that go, and those that come.
    var unexported: [SavedExport] = []
    var exported: [SavedExport] = []
    /// What goes on from now on.
    var begun: [SavedOperation] = []

    init(from old: DaemonState, to new: DaemonState, holding names: Set<String>) {
      for record in new.bottomUp {
        guard let before = old[device: record.name] else {
          created.append(record)
          continue
        }
        if before.table != record.table || before.isReadOnly != record.isReadOnly {
          changed.append(record)
        } else if names.contains(record.name) {
          held.append(record)
        } else {
          continue
        }
        resumed.append(record)
      }
      removed = old.bottomUp.reversed().filter { new[device: $0.name] == nil }
      unexported = old.exports.filter { !new.exports.contains($0) }
      exported = new.exports.filter { !old.exports.contains($0) }
      begun = new.operations.filter { !old.operations.contains($0) }
    }
  }

  /// Makes `next` the state.
  ///
  /// - Parameters:
  ///   - held: devices that stand still meanwhile though their tables stay.
  ///   - noflush: whether requests that targets push back are sent again afterwards, to the new
  ///     tables, instead of failing.
  ///   - isOwnTable: whether the tables are the daemon's work, so that no refusal says line and word.
  func change(
    to next: DaemonState, holding held: Set<String> = [], noflush: Bool = false,
    isOwnTable: Bool = true
  ) async throws(ControlFailure) {
    let difference = Difference(from: state, to: next, holding: held)
    let touched = Set((difference.changed + difference.held + difference.removed).map(\.name))
    for record in state.bottomUp where touched.contains(record.name) {
      try checkRunning(record.name)
    }
    var steps = Steps()
    do throws(ControlFailure) {
      let names = Set(difference.created.map(\.name))
      for record in difference.created {
        try await mapped { () throws(DeviceMapperError) in
          try await mapper.create(
            record.name, uuid: record.uuid ?? "", isReadOnly: record.isReadOnly)
        }
        steps.made.append(record.name)
        note("created", record.name)
      }
      // What can be made while everything runs.
      for record in difference.changed where names.isDisjoint(with: next.below(record)) {
        try await load(record, isOwnTable: isOwnTable)
        steps.loaded.append(record.name)
        note("loaded", record.name)
      }
      // What their clients have asked for is done before anything is suspended.
      for export in difference.unexported {
        await exports.stop(export.export)
        steps.unexported.append(export)
        note("unexported", export.device)
      }
      // From the top down, so that what is above has sent all it had.
      for record in state.bottomUp.reversed() where touched.contains(record.name) {
        try await mapped { () throws(DeviceMapperError) in
          try await mapper.suspend(record.name, isNoFlush: noflush)
        }
        steps.suspended.append(record.name)
        note("suspended", record.name)
      }
      // Nobody writes now: new devices may take over what the old tables have.
      for record in difference.created where record.table != nil {
        try await load(record, isOwnTable: isOwnTable)
        try await mapped(isOwnTable: isOwnTable) { () throws(DeviceMapperError) in
          try await mapper.resume(record.name)
        }
        note("started", record.name)
      }
      for record in difference.changed where !steps.loaded.contains(record.name) {
        try await load(record, isOwnTable: isOwnTable)
        steps.loaded.append(record.name)
        note("loaded", record.name)
      }
      try await save(next)
      note("saved", "")
    } catch {
      await undo(steps)
      throw error
    }
    for record in difference.changed { inactive[record.name] = nil }
    try await goOn(difference)
  }

  /// The same where some of `names` aren't there, and the next state may do without what is missing:
  /// what differs is ended then, and brought up again.
  func changeWithoutAbsent(
    to next: DaemonState, around names: [String], noflush: Bool = false
  ) async throws(ControlFailure) {
    guard names.contains(where: { problems[$0] != nil }) else {
      return try await change(to: next, noflush: noflush)
    }
    let differing = Set(state.devices.filter { next[device: $0.name] != $0 }.map(\.name))
    do throws(ControlFailure) {
      for export in state.exports where differing.contains(export.device) {
        await exports.stop(export.export)
      }
      for record in state.bottomUp.reversed()
      where differing.contains(record.name) && problems[record.name] == nil {
        _ = try await mapped { () throws(DeviceMapperError) in
          try await mapper.remove(record.name, retries: 10)
        }
        problems[record.name] = "it is being changed"
      }
      try await save(next)
    } catch {
      await bringUp()
      await takeUp()
      throw error
    }
    await bringUp()
    await takeUp()
    if let name = differing.sorted().first(where: { problems[$0] != nil }) {
      throw .failed("it is done, but '\(name)' couldn't come back: \(problems[name] ?? "")")
    }
  }

  private func note(_ step: String, _ device: String) {
    logger.debug("a step of a change", metadata: ["step": "\(step)", "device": "\(device)"])
  }

  /// What has been done and can be undone.
  private struct Steps {
    var made: [String] = []
    var loaded: [String] = []
    var suspended: [String] = []
    var unexported: [SavedExport] = []
  }

  /// Loads a record's table into the inactive slot.
  func load(
    _ record: SavedDevice, isOwnTable: Bool = false
  ) async throws(ControlFailure) {
    guard let table = record.table else { return }
    try await mapped(isOwnTable: isOwnTable) { () throws(DeviceMapperError) in
      try await mapper.load(record.name, table)
    }
  }

  /// Refuses a device that isn't there, or that – or one below it – has been suspended by hand:
  /// whoever waits for its requests would wait for good.
  func checkRunning(_ name: String) throws(ControlFailure) {
    try checkThere(name)
    guard let record = state[device: name] else { return }
    if record.isSuspended {
      throw .refused("'\(name)' is suspended; kcopyd dm resume \(name)")
    }
    for below in state.below(record) { try checkRunning(below) }
  }

  /// Puts everything back to where it was before a change.
  private func undo(_ steps: Steps) async {
    for name in steps.loaded.reversed() {
      await attempt("clear", name) { () throws(DeviceMapperError) in
        try await mapper.clear(name)
      }
    }
    for name in steps.made.reversed() {
      await attempt("remove", name) { () throws(DeviceMapperError) in
        try await mapper.remove(name)
      }
    }
    for name in steps.suspended.reversed() {
      await attempt("resume", name) { () throws(DeviceMapperError) in
        try await mapper.resume(name)
      }
    }
    for export in steps.unexported {
      await attempt("export", export.device) { () throws(ControlFailure) in
        try await exports.start(export)
      }
    }
  }

  /// Does what takes a step back, which nothing can be done about if it fails.
  func attempt<Failure: Error>(
    _ verb: String, _ name: String, _ body: () async throws(Failure) -> Void
  ) async {
    do throws(Failure) {
      try await body()
    } catch {
      logger.error(
        "a step couldn't be undone",
        metadata: ["device": "\(name)", "step": "\(verb)", "reason": "\(error)"])
    }
  }

  /// The second half: the state is saved.
  private func goOn(_ difference: Difference) async throws(ControlFailure) {
    var failures: [String] = []
    for record in difference.resumed {
      do throws(DeviceMapperError) {
        try await mapper.resume(record.name)
        note("resumed", record.name)
      } catch {
        failures.append("\(error)")
      }
    }
    for record in difference.removed {
      do throws(DeviceMapperError) {
        try await mapper.remove(record.name, retries: 10)
        note("removed", record.name)
      } catch {
        failures.append("\(error)")
      }
    }
    for export in difference.exported {
      do throws(ControlFailure) {
        try await exports.start(export)
        note("exported", export.device)
      } catch {
        failures.append("\(error)")
      }
    }
    guard failures.isEmpty else {
      throw .failed(
        "it is saved, but not all of it could be done: \(failures.joined(separator: "; ")); it is "
          + "done at the next start of the daemon")
    }
    for operation in difference.begun { startRunner(operation) }
  }
}
