import BlockIO
import DequeModule
import SystemPackage

/// The number by which an origin knows a snapshot.
struct SnapshotID: Hashable, Sendable {
  let rawValue: Int
}

/// An exception being made: its chunk is on the way to the COW device, or its entry into the store.
final class PendingException {
  let exception: Exception
  /// Transfers that the data still wait for.
  var transfersLeft = 0
  /// Why there is no copy, if a transfer failed.
  var failure: IOFailure?
  /// Whether it is over, one way or the other.
  private(set) var isOver = false
  /// Whether the snapshot has its copy, for good.
  private(set) var isCompleted = false
  private let over = Gate()

  init(_ exception: Exception) { self.exception = exception }

  var isReady: Bool { transfersLeft == 0 }

  func finish(isCompleted: Bool) {
    self.isCompleted = isCompleted
    isOver = true
    over.open()
  }

  func wait() async {
    await over.wait { !isOver }
  }
}

/// The state of one snapshot. Lives on the actor of its origin, which alone touches it.
final class Snapshot {
  let id: SnapshotID
  let origin: any BlockDevice
  let cow: any BlockDevice
  let sectorCount: Sector
  var parameters: SnapshotParameters
  let onEvent: @Sendable (SnapshotEvent) -> Void

  /// nil while the store is another snapshot's, to be taken over.
  var store: (any ExceptionStore)?
  let chunkSize: ChunkSize
  /// Whether the store was made for this snapshot, just now.
  var isFresh = false

  /// Origin chunks to COW chunks: durable, in the store.
  var completed = RunMap()
  /// By chunk, until over.
  var pending: [OriginChunk: PendingException] = [:]
  /// The same in the order of allocation, until committed.
  var uncommitted = Deque<PendingException>()
  var isCommitting = false

  /// Whether origin writes are copied for it, as they are from its first ``Origin/resume`` on.
  var isActive = false
  var isSuspended = true
  /// Whether it is being removed: no request is taken any more.
  var isClosing = false
  /// The snapshot whose store this one takes over, and the other way round.
  var predecessor: SnapshotID?
  var successor: SnapshotID?
  /// The snapshot whose store it has taken over, as long as that may get it back.
  var takenFrom: SnapshotID?

  private(set) var invalidity: String?
  /// Open while the invalid mark is on its way to the disk.
  var isMarkingInvalid = false
  let markedInvalid = Gate()
  var isOverflowed = false

  /// Reads that were sent to the origin.
  let originReads = TrackedRequests()
  /// Chunks on their way to the COW device.
  let copies: Quota
  /// What all snapshots of the origin have.
  private let settled: SettledChunks
  /// Everything that isn't over and touches this snapshot.
  let requests = Quota(limit: 0)

  /// Writes that found no room, and whether they are held until there is some.
  var waitingForRoom = 0
  var isMakingRoom = false
  var isHolding = false
  let roomMade = Gate()

  /// Set if the snapshot is merged into its origin.
  var merge: MergeState?

  init(
    id: SnapshotID, origin: any BlockDevice, cow: any BlockDevice, sectorCount: Sector,
    parameters: SnapshotParameters, chunkSize: ChunkSize, settled: SettledChunks,
    onEvent: @escaping @Sendable (SnapshotEvent) -> Void
  ) {
    self.settled = settled
    self.id = id
    self.origin = origin
    self.cow = cow
    self.sectorCount = sectorCount
    self.parameters = parameters
    self.chunkSize = chunkSize
    self.onEvent = onEvent
    copies = Quota(limit: parameters.copiesInFlight)
  }

  var isValid: Bool { invalidity == nil && store != nil }

  /// Whether requests are served.
  var isServing: Bool { isValid && !isClosing }

  /// Whether origin writes have to wait for its copies.
  var wantsCopies: Bool { isActive && isValid && merge == nil }

  func lose(_ reason: String) { invalidity = reason }

  func beginCopies(_ count: Int) {
    copies.add(count)
    settled.copies += count
  }

  func endCopies(_ count: Int) {
    copies.remove(count)
    settled.copies -= count
  }

  func waitUntilMarkedInvalid() async { await markedInvalid.wait { isMarkingInvalid } }

  /// The sectors of an origin chunk, as far as the origin goes.
  func originSectors(of chunk: OriginChunk) -> Range<Sector> {
    chunkSize.sectors(of: chunk).clamped(to: .zero..<origin.sectorCount)
  }

  var status: SnapshotStatus {
    let condition: SnapshotStatus.Condition =
      if let invalidity {
        .invalid(invalidity)
      } else if store == nil {
        .invalid("the store is another snapshot's")
      } else if let failure = merge?.failure {
        .mergeFailed(failure)
      } else if isOverflowed {
        .overflowed
      } else {
        .valid
      }
    return SnapshotStatus(
      condition: condition, allocated: store?.allocated ?? .zero, total: cow.wholeSectorCount,
      metadata: store?.metadata ?? .zero, exceptions: completed.count,
      exceptionMemory: completed.byteCount, held: isHolding ? waitingForRoom : 0)
  }

  /// The failure of a request that can't be served any more.
  func refusal(
    _ operation: IOFailure.Operation, _ name: String, _ sectors: Range<Sector>?
  ) -> IOFailure {
    let reason =
      isClosing
      ? "the snapshot is being removed"
      : invalidity.map { "the snapshot is invalid: \($0)" }
        ?? (isOverflowed
          ? "the snapshot has overflowed: it can only be read"
          : "the store is another snapshot's")
    return IOFailure(operation, name, sectors, errno: .ioError, detail: reason)
  }
}
