import BlockIO
import DeviceMapper
import Logging
import Mirrors
import Snapshots

// What goes on for long – merging, moving, bringing legs into sync – and over restarts. The tables
// do the work; a runner looks how far they are and takes the last step.

/// How far an operation is.
struct OperationProgress: Hashable, Sendable {
  var done: UInt64
  var total: UInt64
}

/// Who looks after an operation.
struct OperationRunner {
  let operation: SavedOperation
  var task: Task<Void, Never>?
  /// Why its last step couldn't be taken; it is tried again.
  var trouble: ControlFailure?
  /// Whether that is to be done at once.
  var isHurried = false
}

/// What a look at an operation came to.
private enum OperationStep {
  case goesOn
  /// It is over; what happened, in words.
  case ended(String)
  /// It can't go on by itself.
  case stopped(ControlFailure)
}

extension DeviceKeeper {
  /// Begins to look after an operation; if somebody does already, what fails is tried again now.
  func startRunner(_ operation: SavedOperation) {
    let device = operation.device
    guard problems[operation.target] == nil else { return }
    let former = runners[device]
    if former?.operation == operation {
      runners[device]?.trouble = nil
      runners[device]?.isHurried = true
      return
    }
    // One that was stopped may still be at its last look.
    former?.task?.cancel()
    endings[device] = nil
    progress[device] = nil
    runners[device] = OperationRunner(operation: operation)
    runners[device]?.task = Task(executorPreference: loop) {
      await former?.task?.value
      await self.run(operation)
    }
  }

  private func isRunning(_ operation: SavedOperation) -> Bool {
    !Task.isCancelled && state.operations.contains(operation)
  }

  private func run(_ operation: SavedOperation) async {
    let device = operation.device
    var pause = Duration.milliseconds(50)
    var retry = retryDelays.lowerBound
    while isRunning(operation) {
      do throws(ControlFailure) {
        switch try await step(operation) {
        case .goesOn: await loop.sleep(for: pause)
        case .ended(let what): return finish(operation, .success(what))
        case .stopped(let failure): return finish(operation, .failure(failure))
        }
        pause = min(pause * 2, .milliseconds(500))
      } catch {
        // Done after all, as far as a restart is concerned: it says what couldn't be.
        guard isRunning(operation) else { return finish(operation, .failure(error)) }
        note(error, of: operation)
        await wait(retry, operation)
        retry = min(retry * 2, retryDelays.upperBound)
      }
    }
    if runners[device]?.operation == operation {
      runners[device] = nil
      progress[device] = nil
    }
  }

  /// Takes note that a step couldn't be taken; the log has each reason once.
  private func note(_ failure: ControlFailure, of operation: SavedOperation) {
    let device = operation.device
    guard runners[device]?.operation == operation else { return }
    let trouble = ControlFailure.failed("\(failure.message); it is tried again by itself")
    if runners[device]?.trouble != trouble {
      logger.error(
        "a step of an operation can't be taken; it is tried again",
        metadata: ["device": "\(device)", "reason": "\(failure)"])
    }
    runners[device]?.isHurried = false
    runners[device]?.trouble = trouble
  }

  private func wait(_ delay: Duration, _ operation: SavedOperation) async {
    let end = loop.now.advanced(by: delay)
    while loop.now < end, isRunning(operation), runners[operation.device]?.isHurried != true {
      await loop.sleep(for: .milliseconds(100))
    }
  }

  private func finish(_ operation: SavedOperation, _ ending: Result<String, ControlFailure>) {
    let device = operation.device
    guard runners[device]?.operation == operation else { return }
    runners[device] = nil
    progress[device] = nil
    guard !Task.isCancelled else { return }
    endings[device] = ending
    switch ending {
    case .success(let what):
      logger.info("an operation has ended", metadata: ["device": "\(device)", "what": "\(what)"])
    case .failure(let failure):
      logger.error(
        "an operation stopped", metadata: ["device": "\(device)", "reason": "\(failure)"])
    }
  }

  /// Looks how far it is, and ends it when it can be.
  private func step(_ operation: SavedOperation) async throws(ControlFailure) -> OperationStep {
    switch (operation.kind, try await figures(of: operation.target)) {
    case (.merge, .snapshot(let status, _)?): return try await stepMerge(operation, status)
    case (.move, .mirror(let status, let legs)?), (.sync, .mirror(let status, let legs)?):
      return try await stepMirror(operation, status, legs.map(\.name))
    default: return .goesOn
    }
  }

  /// How the first target of a device that has something to tell is doing.
  func figures(of name: String) async throws(ControlFailure) -> TargetFigures? {
    try await mapped { () throws(DeviceMapperError) in try await mapper.figures(name) }
      .first?.figures
  }

  private func stepMerge(
    _ operation: SavedOperation, _ status: SnapshotStatus
  ) async throws(ControlFailure) -> OperationStep {
    let name = operation.snapshot?.name ?? ""
    let giveUp = "kcopyd snapshot drop \(name) --force gives it up"
    switch status.condition {
    // What has overflowed can still be read.
    case .valid, .overflowed: break
    case .invalid(let reason):
      return .stopped(
        .failed(
          "the merge of '\(name)' into '\(operation.device)' stopped: the snapshot is invalid: "
            + "\(reason); \(giveUp)"))
    case .mergeFailed(let reason):
      return .stopped(
        .failed(
          "the merge of '\(name)' into '\(operation.device)' stopped: \(reason); nothing is lost: "
            + "it goes on when the daemon is started again, and \(giveUp)"))
    }
    let left = (status.allocated - status.metadata).rawValue
    let total = max(left, progress[operation.device]?.total ?? 0)
    progress[operation.device] = OperationProgress(done: total - left, total: total)
    guard left == 0 else { return .goesOn }
    try await exclusively { () throws(ControlFailure) in
      guard state.operations.contains(operation) else { return }
      var next = state
      try next.endMerge(of: operation.device)
      try await change(to: next)
    }
    let file = operation.cow.map { "; '\($0)' isn't used any more" } ?? ""
    return .ended("merged '\(name)' into '\(operation.device)'\(file)")
  }

  private func stepMirror(
    _ operation: SavedOperation, _ mirror: MirrorStatus, _ legs: [String]
  ) async throws(ControlFailure) -> OperationStep {
    progress[operation.device] = OperationProgress(
      done: mirror.regionsInSync, total: mirror.regionCount)
    // A mirror goes on without a leg; a move is over when it can't trust either of its two.
    if let bad = mirror.failedLeg, operation.kind == .move || bad == legs.count - 1 {
      return try await giveUpLeg(legs[bad], operation)
    }
    guard mirror.isInSync else { return .goesOn }
    try await exclusively { () throws(ControlFailure) in
      guard state.operations.contains(operation) else { return }
      var next = state
      if operation.kind == .move {
        try next.endMove(of: operation.device, isAborted: false)
      } else {
        try next.endSync(of: operation.device)
      }
      try await change(to: next)
    }
    return .ended(
      operation.kind == .move
        ? "moved '\(operation.device)' to '\(operation.to?.device ?? "")'; "
          + "'\(operation.from?.device ?? "")' isn't used any more"
        : "the legs of '\(operation.device)' are in sync")
  }

  /// A leg has failed: writes are held until it has gone.
  private func giveUpLeg(
    _ leg: String, _ operation: SavedOperation
  ) async throws(ControlFailure) -> OperationStep {
    let gone = operation.to?.device ?? leg
    try await exclusively { () throws(ControlFailure) in
      guard state.operations.contains(operation) else { return }
      var next = state
      var unused: [String] = []
      if operation.kind == .move {
        try next.endMove(of: operation.device, isAborted: true)
      } else {
        unused = try next.removeLeg(gone, from: operation.device).unused
        next.operations.removeAll { $0 == operation }
      }
      // Writes that are held go to what is left.
      try await change(to: next, noflush: true)
      forgetMirrorFiles(unused)
    }
    let reason = targetTroubles[operation.target].map { " (\($0))" } ?? ""
    return .stopped(
      .failed(
        "'\(leg)' failed\(reason): "
          + (operation.kind == .move
            ? "'\(operation.device)' stays on '\(operation.from?.device ?? "")', and '\(gone)' "
              + "isn't used any more"
            : "'\(gone)' is no leg of '\(operation.device)' any more")))
  }

  /// Waits for the end of an operation, and tells how far it is.
  func follow(
    _ device: String, _ progress: ControlProgress
  ) async throws(ControlFailure) -> String {
    guard let operation = state.operation(on: device) else {
      // Its last step may be under way: the state is ahead of the tables then.
      await runners[device]?.task?.value
      if let ending = endings[device] { return try ending.get() }
      throw .refused("nothing goes on with '\(device)'")
    }
    var shown: OperationProgress?
    while !Task.isCancelled {
      if let trouble = runners[operation.device]?.trouble { throw trouble }
      if runners[operation.device] == nil {
        if let ending = endings[operation.device] { return try ending.get() }
        if let problem = problems[operation.target] {
          throw .failed("'\(operation.target)' isn't there: \(problem)")
        }
        guard state.operations.contains(operation) else {
          return "\(operation.inWords): that was stopped"
        }
        // Whoever has begun it looks after it before others may change anything.
        guard isBusy else {
          throw .failed("\(operation.inWords); that goes on when the daemon is started again")
        }
      }
      if let now = self.progress[operation.device], now != shown {
        shown = now
        await progress(now.done, now.total, operation.inWords)
      }
      await loop.sleep(for: .milliseconds(100))
    }
    return ""
  }
}

extension MirrorStatus {
  /// The first leg that failed.
  var failedLeg: Int? { legs.firstIndex { $0.letter != "A" } }
  var isInSync: Bool { regionsInSync == regionCount }
}
