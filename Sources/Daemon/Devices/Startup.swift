import BlockIO
import DeviceMapper
import Logging

// Coming back: the devices of the state, from the bottom up, before anything is exported.

extension DeviceKeeper {
  /// Begins with a state: all its devices come back, those in `new` – with the places where they stand
  /// in the configuration file – without fail.
  ///
  /// - Throws: when one of these can't be; nothing is there then.
  func begin(with state: DaemonState, isNew new: [String: String]) async throws(ControlFailure) {
    for record in state.devices {
      guard let place = new[record.name], let table = record.table else { continue }
      do throws(ControlFailure) {
        try checkPaths(table, of: record.name)
        try state.checkLoop(record)
      } catch {
        throw .refused("\(place): \(error.message)")
      }
    }
    self.state = state
    await loop.blocking { [folder] in folder.removeUnusedMirrorFiles(by: state) }
    await startWatching()
    await bringUp(sayingNothingOf: Set(new.keys))
    for record in state.bottomUp {
      guard let place = new[record.name], let problem = problems[record.name] else { continue }
      await shutDown()
      throw .refused("\(place): \(problem)")
    }
  }

  /// Makes all devices of the state that aren't there. What can't be is said, and all that stands
  /// on it stays away, too; everything else comes back.
  ///
  /// - Parameter quiet: devices of which somebody else says what is wrong.
  func bringUp(sayingNothingOf quiet: Set<String> = []) async {
    let missing = Set(state.devices.map(\.name)).subtracting(await mapper.list())
    problems = problems.filter { missing.contains($0.key) }
    var loaded: [SavedDevice] = []
    for record in state.bottomUp where missing.contains(record.name) {
      problems[record.name] = nil
      let isQuiet = quiet.contains(record.name)
      if let reason = obstacle(to: record) {
        await giveUp(record, reason, isMade: false, isQuiet: isQuiet)
        continue
      }
      do throws(ControlFailure) {
        try await mapped { () throws(DeviceMapperError) in
          try await mapper.create(
            record.name, uuid: record.uuid ?? "", isReadOnly: record.isReadOnly)
        }
      } catch {
        await giveUp(record, error.message, isMade: false, isQuiet: isQuiet)
        continue
      }
      do throws(ControlFailure) {
        try await load(record)
        if record.table != nil {
          try await mapped { () throws(DeviceMapperError) in
            try await mapper.resume(record.name)
          }
        }
        loaded.append(record)
      } catch {
        await giveUp(record, error.message, isMade: true, isQuiet: isQuiet)
      }
    }
    for record in loaded.reversed() where record.isSuspended {
      try? await mapper.suspend(record.name)
    }
  }

  /// Why a device must stay away: something below it does, or a snapshot of it. An origin that is
  /// written without one of its snapshots would spoil that for good.
  private func obstacle(to record: SavedDevice) -> String? {
    for name in state.below(record) where problems[name] != nil {
      return "'\(name)', which it stands on, isn't there"
    }
    guard let base = state.originBase(record) else { return nil }
    for name in state.snapshots(of: base) {
      if let problem = problems[name] {
        return "its snapshot '\(name)' isn't there (\(problem)) and would be spoilt; bring it "
          + "back, or give it up with kcopyd snapshot drop \(name)"
      }
    }
    return nil
  }

  private func giveUp(
    _ record: SavedDevice, _ reason: String, isMade: Bool, isQuiet: Bool
  ) async {
    if isMade { _ = try? await mapper.remove(record.name) }
    problems[record.name] = reason
    if isQuiet { return }
    logger.error(
      "a device couldn't come back", metadata: ["device": "\(record.name)", "reason": "\(reason)"])
  }

  /// Exports everything of the state that isn't, and takes its operations up.
  func takeUp() async {
    for record in state.exports {
      if problems[record.device] == nil {
        do throws(ControlFailure) {
          try await exports.start(record)
        } catch {
          logger.error(
            "an export couldn't come back",
            metadata: ["export": "\(record.export)", "reason": "\(error)"])
        }
      }
    }
    for operation in state.operations { startRunner(operation) }
    await removeDeferred()
  }

  /// Ends everything: exports drained, devices suspended from the top down, so that logs are up to
  /// date.
  func shutDown() async {
    await stop()
    let tasks = runners.values.compactMap(\.task)
    for task in tasks { task.cancel() }
    for task in tasks { await task.value }
    await exports.stopAll()
    for record in state.bottomUp.reversed() where problems[record.name] == nil {
      do throws(DeviceMapperError) {
        if record.isSuspended {
          // What is below must not be waited for in vain.
          try await mapper.resume(record.name)
        }
      } catch {
        logger.warning(
          "a device couldn't be resumed for the end",
          metadata: ["device": "\(record.name)", "reason": "\(error)"])
      }
    }
    for record in state.bottomUp.reversed() where problems[record.name] == nil {
      do throws(DeviceMapperError) {
        try await mapper.remove(record.name)
      } catch {
        logger.warning(
          "a device couldn't be ended",
          metadata: ["device": "\(record.name)", "reason": "\(error)"]
        )
      }
    }
    watcher?.cancel()
    await watcher?.value
    watcher = nil
  }
}
