import DeviceMapper

/// Requests of the control socket to verbs of the keeper.
struct RequestHandler: ControlHandler {
  let keeper: DeviceKeeper

  func handle(
    _ request: ControlRequest, progress: @escaping ControlProgress
  ) async throws(ControlFailure) -> ControlAnswer {
    switch request {
    case .wait(let name, let event):
      return .event(number: try await keeper.wait(name, event: event))
    case .follow(let device):
      return .text(text: try await keeper.follow(device, progress))
    default: break
    }
    // A verb that has begun ends, whatever becomes of the client; only waiting is given up.
    let begun = Task { () async -> Result<Done, ControlFailure> in
      do throws(ControlFailure) { return .success(try await perform(request)) } catch {
        return .failure(error)
      }
    }
    let done = try await begun.value.get()
    guard let device = done.goesOnWith else { return done.answer }
    return .text(text: try await keeper.follow(device, progress))
  }

  /// What a verb gave, and the device with which something goes on that is to be waited for.
  private struct Done: Sendable {
    var answer = ControlAnswer.nothing
    var goesOnWith: String?

    /// Something goes on.
    static func begun(_ text: String, _ device: String, isDetached: Bool) -> Done {
      Done(
        answer: .text(text: "\(text); kcopyd dm follow \(device) waits for its end"),
        goesOnWith: isDetached ? nil : device)
    }
  }

  private func perform(_ request: ControlRequest) async throws(ControlFailure) -> Done {
    switch request {
    case .create(let name, let uuid, let table, let readOnly):
      try await keeper.create(name, uuid: uuid, table: table, isReadOnly: readOnly)
    case .createAll(let devices): try await keeper.create(devices)
    case .load(let name, let table): try await keeper.load(name, table: table)
    case .clear(let name): try await keeper.clear(name)
    case .suspend(let name, let noflush): try await keeper.suspend(name, isNoFlush: noflush)
    case .resume(let name, let noflush): try await keeper.resume(name, isNoFlush: noflush)
    case .remove(let name, let force, let deferred):
      try await keeper.remove(name, isForced: force, isDeferred: deferred)
    case .rename(let name, let to, let isUUID):
      try await keeper.rename(name, to: to, isUUID: isUUID)
    case .wipeTable(let name, let noflush): try await keeper.wipe(name, isNoFlush: noflush)
    case .unexport(let export): try await keeper.unexport(export)
    case .snapshotMerge(let name, let isDetached, let force):
      let origin = try await keeper.mergeSnapshot(name, isForced: force)
      return .begun("'\(name)' is being merged", origin, isDetached: isDetached)
    case .mirrorAdd(let device, let leg, let region, let isDetached):
      try await keeper.addLeg(leg, to: device, region: region)
      return .begun("'\(leg)' is being brought into sync", device, isDetached: isDetached)
    case .move(let device, let to, let isDetached):
      try await keeper.move(device, to: to)
      return .begun("'\(device)' is being moved", device, isDetached: isDetached)
    default: return Done(answer: try await look(request))
    }
    return Done()
  }

  /// Requests that only look, or answer in words.
  private func look(_ request: ControlRequest) async throws(ControlFailure) -> ControlAnswer {
    switch request {
    case .status(let name, let inactive): try await keeper.status(name, isInactive: inactive)
    case .table(let name, let inactive): try await keeper.table(name, isInactive: inactive)
    case .deps(let name): try await keeper.deps(name)
    case .info(let name): .devices(devices: try await keeper.info(name))
    case .list: .devices(devices: try await keeper.info(nil))
    case .message(let name, let sector, let text):
      try await keeper.message(name, sector: sector, text: text).map { .text(text: $0) }
        ?? .nothing
    case .targets: .targets(targets: keeper.targets)
    case .exports: .exports(exports: await keeper.exportSummaries())
    default: .text(text: try await step(request))
    }
  }

  /// What is done in one step, and told in words.
  private func step(_ request: ControlRequest) async throws(ControlFailure) -> String {
    switch request {
    case .attach(let name, let file, let readOnly, let export):
      return try await keeper.attach(
        name, file: file, isReadOnly: readOnly, isExported: export)
    case .export(let name, let export, let readOnly):
      return try await keeper.export(name, as: export, isReadOnly: readOnly)
    case .snapshotTake(let orders, let export):
      return try await keeper.takeSnapshots(orders, isExported: export)
    case .snapshotDrop(let name, let force):
      return try await keeper.dropSnapshot(name, isForced: force)
    case .mirrorSplit(let device, let leg, let new):
      return try await keeper.removeLeg(leg, from: device, isSplit: true, as: new)
    case .mirrorRemove(let device, let leg):
      return try await keeper.removeLeg(leg, from: device, isSplit: false, as: nil)
    case .moveAbort(let device): return try await keeper.abortMove(device)
    default: throw .refused("unknown request")
    }
  }
}
