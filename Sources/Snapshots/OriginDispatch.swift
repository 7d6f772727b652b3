import BlockIO
import SystemPackage

// The requests of the devices, which know their snapshot by number.

extension Origin {
  private func snapshot(
    _ id: SnapshotID, _ operation: IOFailure.Operation, _ name: String, _ sectors: Range<Sector>?
  ) throws(IOFailure) -> Snapshot {
    guard let snapshot = snapshots[id] else {
      throw IOFailure(
        operation, name, sectors, errno: .noSuchAddressOrDevice,
        detail: "the snapshot has been removed")
    }
    return snapshot
  }

  func read(
    _ id: SnapshotID, _ name: String, _ sectors: Range<Sector>, into buffer: IOBuffer
  ) async throws(IOFailure) {
    try await read(try snapshot(id, .read, name, sectors), name, sectors, into: buffer)
  }

  func write(
    _ id: SnapshotID, _ name: String, _ sectors: Range<Sector>, from buffer: IOBuffer,
    options: WriteOptions
  ) async throws(IOFailure) {
    try await write(
      try snapshot(id, .write, name, sectors), name, sectors, from: buffer, options: options)
  }

  func discard(
    _ id: SnapshotID, _ name: String, _ sectors: Range<Sector>
  ) async throws(IOFailure) {
    try await discard(try snapshot(id, .discard, name, sectors), name, sectors)
  }

  func flush(_ id: SnapshotID, _ name: String) async throws(IOFailure) {
    let snapshot = try snapshot(id, .flush, name, nil)
    guard snapshot.store != nil else {
      throw snapshot.refusal(.flush, name, nil)
    }
    try await snapshot.cow.flush()
  }

  func blockStatus(
    _ id: SnapshotID, _ name: String, _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    try await blockStatus(
      try snapshot(id, .blockStatus, name, sectors), name, sectors, limit: limit)
  }

  func resume(_ id: SnapshotID) async throws(SnapshotError) {
    guard let snapshot = snapshots[id] else { throw .state("the snapshot has been removed") }
    try await resume(snapshot)
  }

  func suspend(_ id: SnapshotID) async {
    if let snapshot = snapshots[id] { await suspend(snapshot) }
  }

  func remove(_ id: SnapshotID) async {
    if let snapshot = snapshots[id] { await remove(snapshot) }
  }

  func waitForMerge(_ id: SnapshotID) async {
    if let snapshot = snapshots[id] { await waitForMerge(snapshot) }
  }

  func status(_ id: SnapshotID) -> SnapshotStatus {
    snapshots[id]?.status ?? .removed
  }

  func tableWords(_ id: SnapshotID) -> String {
    guard let snapshot = snapshots[id] else { return "" }
    return snapshot.parameters.words(chunkSize: snapshot.chunkSize)
  }
}

extension SnapshotStatus {
  /// The status of a snapshot that is no more.
  fileprivate static let removed = SnapshotStatus(
    condition: .invalid("the snapshot has been removed"), allocated: .zero, total: .zero,
    metadata: .zero, exceptions: 0, exceptionMemory: 0, held: 0)
}
