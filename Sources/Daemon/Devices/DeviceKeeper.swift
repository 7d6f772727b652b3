import BlockIO
import DeviceMapper
import Foundation
import Logging

/// The devices, exports and long operations of a daemon, and the record of them on disk.
///
/// Verbs that change something go one after the other. Each saves what it has made before it is
/// acknowledged, so that a daemon that is killed at any point comes back with what it had promised.
actor DeviceKeeper {
  nonisolated let loop: IOLoop
  nonisolated let mapper: DeviceMapper
  nonisolated let folder: StateFolder
  nonisolated let logger: Logger
  /// How long it takes until the step of an operation that couldn't be taken is tried again: twice as
  /// long each time.
  nonisolated let retryDelays: ClosedRange<Duration>
  let exports: ExportKeeper

  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  /// What is saved.
  var state: DaemonState
  /// Why a device of the state isn't there.
  var problems: [String: String] = [:]
  /// The tables in the inactive slots: they aren't saved, but become the live ones.
  var inactive: [String: SavedDevice] = [:]
  /// How far operations are, by device, and how the last one of a device ended.
  var progress: [String: OperationProgress] = [:]
  var endings: [String: Result<String, ControlFailure>] = [:]
  var runners: [String: OperationRunner] = [:]
  /// What last went wrong with a target of a device, in words.
  var targetTroubles: [String: String] = [:]
  /// Hears of all events.
  var watcher: Task<Void, Never>?
  /// The end has begun: nothing is changed any more.
  var isStopping = false
  /// What is on disk may be another state than this one: nothing is changed before it is saved again.
  private(set) var isInDoubt = false

  /// A verb that changes something is under way.
  private(set) var isBusy = false
  private let free = Gate()

  init(
    mapper: DeviceMapper, exports: ExportKeeper, folder: StateFolder, state: DaemonState,
    retryDelays: ClosedRange<Duration> = .seconds(1) ... .seconds(60), on loop: IOLoop,
    logger: Logger
  ) {
    self.retryDelays = retryDelays
    self.loop = loop
    self.mapper = mapper
    self.exports = exports
    self.folder = folder
    self.state = state
    self.logger = logger
  }

  /// Tells the log what happens to targets, from now on until the end.
  func startWatching() async {
    guard watcher == nil else { return }
    let events = await mapper.events()
    watcher = Task(executorPreference: loop) {
      for await event in events { await self.note(event) }
    }
  }

  private func note(_ event: DeviceEvent) {
    switch event.kind {
    case .removed: targetTroubles[event.name] = nil
    case .target(let what):
      let metadata: Logger.Metadata = ["device": "\(event.name)", "what": "\(what)"]
      if what.isTrouble {
        targetTroubles[event.name] = what.description
        logger.warning("something is wrong with a device", metadata: metadata)
      } else {
        logger.info("something happened to a device", metadata: metadata)
      }
    default: break
    }
  }

  /// Does what changes something, when nothing else of the kind is under way.
  func exclusively<R: Sendable>(
    _ body: () async throws(ControlFailure) -> R
  ) async throws(ControlFailure) -> R {
    try await alone { () throws(ControlFailure) in
      guard !isStopping else { throw .refused("the daemon is stopping") }
      if isInDoubt { try await write(state) }
      let result = try await body()
      await removeDeferred()
      return result
    }
  }

  /// Has nothing that changes something begin any more.
  func stop() async {
    await alone { isStopping = true }
  }

  private func alone<R: Sendable, Failure: Error>(
    _ body: () async throws(Failure) -> R
  ) async throws(Failure) -> R {
    // Looked at again in the very step that takes it.
    while isBusy { await free.wait { isBusy } }
    isBusy = true
    defer {
      isBusy = false
      free.open()
    }
    return try await body()
  }

  /// Saves a state, durably, and makes it the one that counts.
  func save(_ next: DaemonState) async throws(ControlFailure) {
    guard next != state else { return }
    try await write(next)
    state = next
  }

  /// Writes a state in place of the one that counts.
  func write(_ next: DaemonState) async throws(ControlFailure) {
    do throws(StateFolder.SaveFailure) {
      try await loop.blocking { [folder, state] in
        Result { () throws(StateFolder.SaveFailure) in try folder.save(next, replacing: state) }
      }.get()
      isInDoubt = false
    } catch {
      if error.isInDoubt, !isInDoubt {
        logger.critical("the state on disk is in doubt", metadata: ["reason": "\(error.failure)"])
      }
      isInDoubt = isInDoubt || error.isInDoubt
      throw error.failure
    }
  }

  /// Saves a state and does what it says. What is refused then is taken back.
  func save(
    _ next: DaemonState, doing body: () async throws(DeviceMapperError) -> Void
  ) async throws(ControlFailure) {
    let before = state
    try await save(next)
    do throws(ControlFailure) {
      try await mapped(body)
    } catch {
      try await save(before)
      throw error
    }
  }

  /// Calls the device-mapper; its refusals become those of the daemon.
  ///
  /// - Parameter isOwnTable: whether a table is the daemon's work: nobody knows of its words then.
  func mapped<R>(
    isOwnTable: Bool = false, _ body: () async throws(DeviceMapperError) -> R
  ) async throws(ControlFailure) -> R {
    do throws(DeviceMapperError) {
      return try await body()
    } catch {
      throw .refused((isOwnTable ? error.withoutPlace : error).description)
    }
  }

  /// Refuses a device that isn't there after all.
  func checkThere(_ name: String) throws(ControlFailure) {
    if let problem = problems[name] {
      throw .refused(
        "'\(name)' couldn't come back: \(problem); kcopyd dm resume \(name) tries again")
    }
  }
}
