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

extension DeviceKeeper {
  /// Begins to look after an operation.
  func startRunner(_ operation: SavedOperation) {
    let device = operation.device
    guard runners[device] == nil, problems[operation.target] == nil else { return }
    endings[device] = nil
    runners[device] = Task(executorPreference: loop) { await self.run(operation) }
  }

  private func run(_ operation: SavedOperation) async {
    let device = operation.device
    defer {
      runners[device] = nil
      progress[device] = nil
    }
    var pause = Duration.milliseconds(50)
    while !Task.isCancelled, state.operation(on: device)?.kind == operation.kind {
      do throws(ControlFailure) {
        if let ending = try await step(operation) {
          endings[device] = .success(ending)
          logger.info(
            "an operation has ended", metadata: ["device": "\(device)", "what": "\(ending)"])
          return
        }
      } catch {
        endings[device] = .failure(error)
        logger.error(
          "an operation stopped", metadata: ["device": "\(device)", "reason": "\(error)"])
        return
      }
      await loop.sleep(for: pause)
      pause = min(pause * 2, .milliseconds(500))
    }
  }

  /// Looks how far it is, and ends it when it can be; what then happened, in words.
  private func step(_ operation: SavedOperation) async throws(ControlFailure) -> String? {
    switch (operation.kind, try await figures(of: operation.target)) {
    case (.merge, .snapshot(let status, _)?): return try await stepMerge(operation, status)
    case (.move, .mirror(let status, let legs)?), (.sync, .mirror(let status, let legs)?):
      return try await stepMirror(operation, status, legs.map(\.name))
    default: return nil
    }
  }

  /// How the first target of a device that has something to tell is doing.
  func figures(of name: String) async throws(ControlFailure) -> TargetFigures? {
    try await mapped { () throws(DeviceMapperError) in try await mapper.figures(name) }
      .first?.figures
  }

  private func stepMerge(
    _ operation: SavedOperation, _ status: SnapshotStatus
  ) async throws(ControlFailure) -> String? {
    let problem: String
    switch status.condition {
    case .valid: problem = ""
    case .invalid(let reason): problem = "the snapshot is invalid: \(reason)"
    case .mergeFailed(let reason): problem = reason
    case .overflowed: problem = "the snapshot has overflowed"
    }
    guard problem.isEmpty else {
      throw .failed(
        "the merge of '\(operation.snapshot?.name ?? "")' into '\(operation.device)' stopped: "
          + "\(problem); nothing is lost: it goes on when '\(operation.device)' gets its table "
          + "again or the daemon is started again")
    }
    let left = (status.allocated - status.metadata).rawValue
    let total = max(left, progress[operation.device]?.total ?? 0)
    progress[operation.device] = OperationProgress(done: total - left, total: total)
    guard left == 0 else { return nil }
    try await exclusively { () throws(ControlFailure) in
      var next = state
      try next.endMerge(of: operation.device)
      try await change(to: next)
    }
    let cow = operation.snapshot.flatMap { try? DeviceTable($0.table ?? "", of: $0.name).shape }
    var file = ""
    if case .snapshot(_, let path)? = cow { file = "; '\(path)' isn't used any more" }
    return "merged '\(operation.snapshot?.name ?? "")' into '\(operation.device)'\(file)"
  }

  private func stepMirror(
    _ operation: SavedOperation, _ mirror: MirrorStatus, _ legs: [String]
  ) async throws(ControlFailure) -> String? {
    progress[operation.device] = OperationProgress(
      done: mirror.regionsInSync, total: mirror.regionCount)
    // A mirror goes on without a leg; a move is over when it can't trust either of its two.
    if let bad = mirror.failedLeg, operation.kind == .move || bad == legs.count - 1 {
      return try await giveUpLeg(legs[bad], operation)
    }
    guard mirror.isInSync else { return nil }
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
    return operation.kind == .move
      ? "moved '\(operation.device)' to '\(operation.to?.device ?? "")'; "
        + "'\(operation.from?.device ?? "")' isn't used any more"
      : "the legs of '\(operation.device)' are in sync"
  }

  /// A leg has failed: writes are held until it has gone.
  private func giveUpLeg(
    _ leg: String, _ operation: SavedOperation
  ) async throws(ControlFailure) -> String? {
    try await exclusively { () throws(ControlFailure) in
      var next = state
      if operation.kind == .move {
        try next.endMove(of: operation.device, isAborted: true)
      } else {
        try next.removeLeg(operation.to?.device ?? leg, from: operation.device)
        next.operations.removeAll { $0 == operation }
      }
      // Writes that are held go to what is left.
      try await change(to: next, noflush: true)
    }
    throw .failed(
      "'\(leg)' failed: "
        + (operation.kind == .move
          ? "'\(operation.device)' stays on '\(operation.from?.device ?? "")'"
          : "'\(operation.to?.device ?? "")' is no leg of '\(operation.device)' any more"))
  }

  /// Waits for the end of an operation, and tells how far it is.
  func follow(
    _ device: String, _ progress: ControlProgress
  ) async throws(ControlFailure) -> String {
    guard let operation = state.operation(on: device) else {
      // Its last step may be under way: the state is ahead of the tables then.
      await runners[device]?.value
      if let ending = endings[device] { return try ending.get() }
      throw .refused("nothing goes on with '\(device)'")
    }
    var last: OperationProgress?
    while !Task.isCancelled {
      if runners[operation.device] == nil {
        if let ending = endings[operation.device] { return try ending.get() }
        if let problem = problems[operation.target] {
          throw .failed("'\(operation.target)' isn't there: \(problem)")
        }
        guard state.operations.contains(operation) else {
          return "\(operation.inWords): that was stopped"
        }
      }
      if let now = self.progress[operation.device], now != last {
        last = now
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
