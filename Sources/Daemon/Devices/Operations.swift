import BlockIO
import DeviceMapper
import Logging

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
    let status = try await statusWords(of: operation.target)
    switch operation.kind {
    case .merge: return try await stepMerge(operation, status)
    case .move, .sync: return try await stepMirror(operation, status)
    }
  }

  /// The words of the first target's status line, from behind the target's name on.
  func statusWords(of name: String) async throws(ControlFailure) -> [String] {
    let lines = try await mapped { () throws(DeviceMapperError) in
      try await mapper.status(name)
    }
    return (lines.first ?? "").split(separator: " ").dropFirst(3).map(String.init)
  }

  private func stepMerge(
    _ operation: SavedOperation, _ status: [String]
  ) async throws(ControlFailure) -> String? {
    guard let fill = CowFill(status) else {
      throw .failed(
        "the merge of '\(operation.snapshot?.name ?? "")' into '\(operation.device)' stopped: "
          + "\(status.joined(separator: " ")); nothing is lost: it goes on when '\(operation.device)'"
          + " gets its table again or the daemon is started again")
    }
    let left = fill.used - fill.metadata
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
    _ operation: SavedOperation, _ status: [String]
  ) async throws(ControlFailure) -> String? {
    guard let mirror = MirrorProgress(status) else { return nil }
    let region = mirror.total == 0 ? 0 : mirror.inSync
    progress[operation.device] = OperationProgress(done: region, total: mirror.total)
    let isBad = mirror.failedLeg.map { leg in
      // A mirror goes on without a leg; a move is over when it can't trust either of its two.
      operation.kind == .move || leg == mirror.legs.count - 1
    }
    if let bad = mirror.failedLeg, isBad == true {
      return try await giveUpLeg(bad, mirror, operation)
    }
    guard mirror.inSync == mirror.total else { return nil }
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
    _ index: Int, _ mirror: MirrorProgress, _ operation: SavedOperation
  ) async throws(ControlFailure) -> String? {
    let leg = mirror.legs[index]
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

/// A mirror's status words: `#legs leg… in-sync/total #1 letters …`.
struct MirrorProgress: Hashable, Sendable {
  var legs: [String]
  var inSync: UInt64
  var total: UInt64
  /// `A` alive, anything else: failed in one way or another.
  var letters: [Character]

  init?(_ words: [String]) {
    guard let first = words.first, let count = Int(first), 1...64 ~= count,
      words.count >= count + 4
    else { return nil }
    legs = Array(words[1...count])
    let parts = words[count + 1].split(separator: "/").map { UInt64($0) }
    guard parts.count == 2, let inSync = parts[0], let total = parts[1] else { return nil }
    self.inSync = inSync
    self.total = total
    letters = Array(words[count + 3])
    guard letters.count == count else { return nil }
  }

  /// The first leg that failed.
  var failedLeg: Int? { letters.firstIndex { $0 != "A" } }
}
