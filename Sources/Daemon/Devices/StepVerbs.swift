import BlockIO
import DeviceMapper
import Foundation
import NBD
import Snapshots
import SystemPackage

// What people come for, in one step: what the verb makes of the state is pure (`Stacks`), the files
// it needs are made before, and ``change(to:noflush:)`` does it while the devices are in use.

extension DeviceKeeper {
  /// A linear device over a whole file.
  func attach(
    _ name: String, file: String, isReadOnly: Bool, isExported: Bool
  ) async throws(ControlFailure) -> String {
    let bytes = try await size(file)
    let (sectors, rest) = bytes.quotientAndRemainder(dividingBy: Sector.byteCount)
    guard sectors > 0 else { throw .refused("'\(file)' is smaller than a sector of 512 bytes") }
    try await create(
      name, uuid: nil, table: DeviceTable.text(sectors, "linear", [file, "0"]),
      isReadOnly: isReadOnly, isOwnTable: true)
    let without = rest > 0 ? ", without its last \(rest) bytes, which are no whole sector" : ""
    let made = "'\(name)' is a device over '\(file)'\(without)"
    guard isExported else { return made }
    let place = try await export(name, as: nil, isReadOnly: isReadOnly)
    return rest > 0 ? "\(made)\n\(place)" : place
  }

  /// The bytes of what a table's word names.
  private func size(_ word: String) async throws(ControlFailure) -> UInt64 {
    guard NBDURI.isMeant(by: word) else { return try await fileSize(word) }
    do throws(IOFailure) {
      return try await mapper.openForLooking(word).byteCount
    } catch {
      throw .refused("\(error)")
    }
  }

  private func fileSize(_ path: String) async throws(ControlFailure) -> UInt64 {
    let loop = loop
    return try await blocking { () throws(IOFailure) in
      try FileDevice.open(path, .init(isWritable: false, isExclusive: false), on: loop).byteCount
    }
  }

  // MARK: Snapshots

  func takeSnapshots(
    _ orders: [SnapshotOrder], isExported: Bool
  ) async throws(ControlFailure) -> String {
    try await exclusively { () throws(ControlFailure) in
      var next = state
      try next.takeSnapshots(orders)
      if isExported {
        for order in orders { try next.export(order.name, as: order.name, isReadOnly: false) }
      }
      var made: [String] = []
      do throws(ControlFailure) {
        for order in orders {
          if try await prepareCow(order, next) { made.append(order.cow) }
        }
        // All of them at one instant, those too that are origins already.
        try await change(to: next, holding: Set(orders.map(\.origin)))
      } catch {
        if !state.devices.contains(where: { $0.name == orders[0].name }) { forget(made) }
        throw error
      }
    }
    var lines: [String] = []
    for order in orders {
      lines.append(
        isExported
          ? await whereExported(order.name)
          : "'\(order.name)' is a snapshot of '\(order.origin)'")
    }
    return lines.joined(separator: "\n")
  }

  /// Has an empty store on the COW device; whether a file was made for it.
  private func prepareCow(
    _ order: SnapshotOrder, _ next: DaemonState
  ) async throws(ControlFailure) -> Bool {
    guard let chunkSize = ChunkSize(Sector(order.chunkSectors)) else {
      throw .refused("a chunk of \(order.chunkSectors) sectors can't be")
    }
    guard order.cow.hasPrefix("/") else { throw .refused("'\(order.cow)' is no whole path") }
    let length = try next.device(order.name).table.length
    guard NewFile.isMissing(order.cow) else {
      // The same command once more, after an interruption, finds what it had made.
      if let user = state.user(of: order.cow) {
        throw .refused("'\(order.cow)' is used by the table of '\(user)'; name another")
      }
      if let size = order.size,
        try await fileSize(order.cow) / Sector.byteCount != size / Sector.byteCount
      {
        throw .refused("--size: '\(order.cow)' is there with another size, which isn't changed")
      }
      try await checkEmptyStore(order.cow, chunkSize)
      return false
    }
    let needed = SnapshotStore.sizeForAll(of: Sector(length), chunkSize: chunkSize)
    guard let size = order.size.map({ Sector($0 / Sector.byteCount) }) ?? needed else {
      throw .refused("a COW file for all of '\(order.origin)' would be too large; give --size")
    }
    guard size >= chunkSize.sectors * 3 else {
      throw .refused("--size: a COW file has at least 3 chunks of \(chunkSize.sectors.bytes) bytes")
    }
    try await make(order.cow, byteCount: size.bytes)
    return true
  }

  /// Refuses a COW device that holds anything: what is in it would be lost, or be taken for the
  /// past of a device it has never belonged to.
  private func checkEmptyStore(_ path: String, _ chunkSize: ChunkSize) async throws(ControlFailure)
  {
    let loop = loop
    let device = try await blocking { () throws(IOFailure) in
      try FileDevice.open(
        path, .init(isWritable: false, isExclusive: false, lock: .shared), on: loop)
    }
    let store: StoreInspection
    do throws(SnapshotError) {
      store = try await StoreInspection(of: device, on: loop)
    } catch {
      if case .noStore = error { return try await checkZero(path) }
      throw .refused("\(error); delete it, or name another")
    }
    guard store.exceptionCount == 0, store.isValid, store.isSound else {
      throw ControlFailure.refused(
        "'\(path)' holds the store of a snapshot with \(store.exceptionCount) chunks; delete it, "
          + "or name another")
    }
    guard store.chunkSize == chunkSize else {
      throw ControlFailure.refused(
        "'\(path)' holds an empty store with chunks of \(store.chunkSize.sectors.bytes) bytes; "
          + "delete it, or ask for such chunks")
    }
  }

  /// A file whose first bytes are zero may still be a file system.
  private func checkZero(_ path: String) async throws(ControlFailure) {
    let head = await loop.blocking {
      try? FileHandle(forReadingFrom: URL(fileURLWithPath: path)).read(upToCount: 256 << 10)
    }
    guard let head, head.allSatisfy({ $0 == 0 }) else {
      throw .refused("'\(path)' holds something else; zero it (kcopyd zero), or name another")
    }
  }

  /// - Parameter isForced: whether the clients of its own export, if it has any, are disconnected.
  func dropSnapshot(_ name: String, isForced: Bool) async throws(ControlFailure) -> String {
    try await exclusively { () throws(ControlFailure) in
      if let merge = state.merge(of: name) { return try await giveUp(merge, isForced: isForced) }
      let place = try state.snapshot(name)
      var next = state
      try next.dropSnapshot(name)
      if !isForced { try await refuseClients(of: name) }
      next.exports.removeAll { $0.device == name }
      try await changeWithoutAbsent(to: next, around: [name, place.base, place.origin ?? name])
      let origin = place.origin.map { " of '\($0)'" } ?? ""
      return "dropped the snapshot '\(name)'\(origin); '\(place.cow)' isn't used any more"
    }
  }

  /// Ends a merge that can't go on: what hasn't been merged is lost for the origin.
  private func giveUp(
    _ merge: SavedOperation, isForced: Bool
  ) async throws(ControlFailure) -> String {
    guard runners[merge.device] == nil else { throw merge.refusal }
    let cow = merge.cow ?? ""
    guard isForced else {
      throw .refused(
        "\(merge.inWords), and that has stopped; --force gives it up: what hasn't been merged, "
          + "writes since its begin among it, is in '\(cow)' alone then")
    }
    var next = state
    try next.endMerge(of: merge.device)
    try await changeWithoutAbsent(to: next, around: merge.devices)
    endings[merge.device] = nil
    return "gave up merging '\(merge.snapshot?.name ?? "")' into '\(merge.device)'; what hadn't "
      + "been merged is in '\(cow)' alone"
  }

  /// Refuses a device that is to go while its exports have clients.
  private func refuseClients(of device: String) async throws(ControlFailure) {
    for export in state.exports where export.device == device {
      let clients = await exports.connections(of: export.export)
      guard clients == 0 else {
        throw .refused(
          "'\(device)' is exported as '\(export.export)', which \(clients) clients use; "
            + "disconnect them, or have --force do so")
      }
    }
  }

  /// - Parameter isForced: whether the clients of the snapshot's own export are disconnected.
  func mergeSnapshot(_ name: String, isForced: Bool) async throws(ControlFailure) -> String {
    try await exclusively { () throws(ControlFailure) in
      // Asked again after an interruption: it goes on.
      if let merge = state.merge(of: name) {
        startRunner(merge)
        return merge.device
      }
      var next = state
      try next.beginMerge(name)
      try checkThere(name)
      if case .snapshot(let status, _)? = try await figures(of: name),
        case .invalid(let reason) = status.condition
      {
        throw .refused(
          "'\(name)' can't be merged, it is invalid: \(reason); "
            + "kcopyd snapshot drop \(name) gives it up")
      }
      if !isForced { try await refuseClients(of: name) }
      next.exports.removeAll { $0.device == name }
      try await change(to: next)
      return next.merge(of: name)?.device ?? name
    }
  }

  // MARK: Moving, legs

  func move(_ name: String, to path: String) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      if let move = state.operation(on: name), move.kind == .move, move.to?.device == path {
        return startRunner(move)
      }
      var next = state
      try next.beginMove(name, to: path)
      try await changeOnto(path, of: name, next)
    }
  }

  func abortMove(_ name: String) async throws(ControlFailure) -> String {
    try await exclusively { () throws(ControlFailure) in
      guard let move = state.operation(on: name), move.kind == .move else {
        throw .refused("'\(name)' isn't being moved")
      }
      var next = state
      try next.endMove(of: name, isAborted: true)
      try await changeWithoutAbsent(to: next, around: move.devices, noflush: true)
      endings[move.device] = .failure(.failed("the move of '\(move.device)' was stopped"))
      return "'\(move.device)' stays on '\(move.from?.device ?? "")'; '\(move.to?.device ?? "")' "
        + "isn't used any more"
    }
  }

  func addLeg(
    _ leg: String, to name: String, region: UInt64?
  ) async throws(ControlFailure) {
    try await exclusively { () throws(ControlFailure) in
      if let sync = state.operation(on: name), sync.kind == .sync, sync.to?.device == leg {
        return startRunner(sync)
      }
      var next = state
      let (log, sidecar) = folder.newMirrorFiles(for: name)
      try next.addLeg(leg, to: name, log: log, sidecar: sidecar, region: region)
      guard next.uses(log) else { return try await changeOnto(leg, of: name, next) }
      do throws(ControlFailure) {
        // A bit for each region behind 1 KiB, and a region is 1 KiB at least.
        let length = try state.device(state.bottom(of: name)).table.length
        try await make(log, byteCount: (1 << 20) + length / 8)
        try await make(sidecar, byteCount: 128 << 10)
        try await changeOnto(leg, of: name, next)
      } catch {
        if !state.uses(log) { forget([log, sidecar]) }
        throw error
      }
    }
  }

  /// Makes the file a device is to lie on, if it isn't there, and changes to a state that uses it.
  private func changeOnto(
    _ path: String, of name: String, _ next: DaemonState
  ) async throws(ControlFailure) {
    let isMade = path.hasPrefix("/") && access(path, F_OK) != 0
    if path.hasPrefix("/"), NewFile.isMissing(path) {
      let target = try state.bottom(of: name)
      let length = try state.device(target).table.length
      try await make(path, byteCount: length * Sector.byteCount)
    }
    do throws(ControlFailure) {
      try await change(to: next)
    } catch {
      if isMade, state != next { forget([path]) }
      throw error
    }
  }

  /// Takes files away again that were made for what wasn't done – unless a restart might find it done
  /// all the same.
  private func forget(_ files: [String]) {
    guard !isInDoubt else { return }
    for path in files { unlink(path) }
  }

  /// Takes the log and the sidecar away that this daemon has made for a mirror that isn't one any more.
  func forgetMirrorFiles(_ unused: [String]) {
    forget(unused.filter { $0.hasPrefix(folder.path + "/") })
  }

  private func make(_ path: String, byteCount: UInt64) async throws(ControlFailure) {
    try await blocking { () throws(IOFailure) in try NewFile.make(path, byteCount: byteCount) }
  }

  /// Makes calls that may take long on a thread; what fails there is a refusal.
  private func blocking<R: Sendable>(
    _ body: @escaping @Sendable () throws(IOFailure) -> R
  ) async throws(ControlFailure) -> R {
    let result = await loop.blocking { Result { () throws(IOFailure) in try body() } }
    do throws(IOFailure) {
      return try result.get()
    } catch {
      throw .refused("\(error)")
    }
  }

  func removeLeg(
    _ leg: String, from name: String, isSplit: Bool, as new: String?
  ) async throws(ControlFailure) -> String {
    try await exclusively { () throws(ControlFailure) in
      var next = state
      let removed = try next.removeLeg(leg, from: name)
      if isSplit {
        guard case .mirror(let mirror, _)? = try await figures(of: removed.target),
          mirror.isInSync, mirror.failedLeg == nil
        else {
          throw .refused(
            "'\(removed.target)' isn't in sync: a leg split off now would be no copy of it; "
              + "kcopyd mirror remove takes it off all the same")
        }
      }
      if let new {
        try next.checkFree(new)
        let length = try state.device(removed.target).table.length
        next.devices.append(
          SavedDevice(name: new, table: DeviceTable.text(length, "linear", removed.place.words)))
      }
      try await changeWithoutAbsent(to: next, around: [name, removed.target], noflush: !isSplit)
      forgetMirrorFiles(removed.unused)
      let rest = isSplit ? "holds what '\(name)' did at this instant" : "isn't used any more"
      return "'\(leg)' \(rest)" + (new.map { "; it is the device '\($0)'" } ?? "")
    }
  }
}

/// Files that verbs make.
enum NewFile {
  /// Whether a file is still to be made: it isn't there, or it is empty – as whoever was killed while
  /// making it has left it.
  static func isMissing(_ path: String) -> Bool {
    var status = stat()
    guard stat(path, &status) == 0 else { return errno == ENOENT }
    return status.st_mode & S_IFMT == S_IFREG && status.st_size == 0
  }

  /// Makes a sparse file that only its owner can read, or gives an empty one its size; durable, its
  /// name too.
  static func make(_ path: String, byteCount: UInt64) throws(IOFailure) {
    do {
      let wasThere = access(path, F_OK) == 0
      let file = try FileDescriptor.open(
        FilePath(path), .readWrite,
        options: wasThere ? .closeOnExec : [.create, .exclusiveCreate, .closeOnExec],
        permissions: [.ownerReadWrite])
      try file.closeAfter {
        guard isMissing(path) else { throw Errno.fileExists }
        guard let size = Int64(exactly: byteCount) else { throw Errno.fileTooLarge }
        do {
          try file.resize(to: size)
          guard fsync(file.rawValue) == 0 else { throw Errno(rawValue: errno) }
          let folder = try FileDescriptor.open(
            FilePath(path).removingLastComponent(), .readOnly, options: [.directory, .closeOnExec])
          defer { try? folder.close() }
          guard fsync(folder.rawValue) == 0 else { throw Errno(rawValue: errno) }
        } catch {
          if wasThere { try? file.resize(to: 0) } else { unlink(path) }
          throw error
        }
      }
    } catch {
      throw IOFailure(
        .open, path, errno: (error as? Errno) ?? .ioError, detail: "can't be made: \(error)")
    }
  }
}
