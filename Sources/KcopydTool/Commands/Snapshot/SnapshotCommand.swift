import ArgumentParser
import BlockIO
import Snapshots

struct SnapshotCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "snapshot",
    abstract: "Snapshots of the daemon's devices, and stores of the device-mapper and of LVM.",
    discussion: """
      A snapshot is an origin and a COW device: the COW device holds the chunks of the origin that \
      have changed since, and the list of them, in the Linux kernel's own format. That of an LVM \
      snapshot is the content of its hidden volume NAME-cow. None of this needs root or a kernel \
      module. Neither device may be in use meanwhile. take, drop and merge NAME work on devices of \
      the daemon (kcopyd serve), while they are in use.
      """,
    subcommands: [
      SnapshotCreateCommand.self, SnapshotInfoCommand.self, SnapshotCheckCommand.self,
      SnapshotTakeCommand.self, SnapshotDropCommand.self, SnapshotMapCommand.self,
      SnapshotExportCommand.self, SnapshotMergeCommand.self,
    ])
}

/// The devices of a snapshot, opened and locked.
struct SnapshotFiles {
  let loop: IOLoop
  let force: Bool
  var direct = DirectChoice.auto

  /// Opens a device that is only read; others may read it, too.
  func openForReading(_ path: String) throws(Refusal) -> FileDevice {
    try open(path, isWritable: false, lock: .shared)
  }

  /// Opens a device that will be written; nobody else may use it.
  func openForWriting(_ path: String) throws(Refusal) -> FileDevice {
    try open(path, isWritable: true, lock: .exclusive)
  }

  /// Refuses one device under two names, before its own lock does so with other words.
  func refuseSame(origin: String, cow: String) throws(Refusal) {
    if isSameFile(origin, cow) {
      throw Refusal("origin and COW device are the same: '\(origin)' and '\(cow)'")
    }
  }

  private func open(
    _ path: String, isWritable: Bool, lock: FileLock
  ) throws(Refusal) -> FileDevice {
    try openDevice(
      path, .init(isWritable: isWritable, direct: direct, isExclusive: !force, lock: lock),
      on: loop)
  }
}

/// What commands that only look at a store are given.
struct StoreOptions: ParsableArguments {
  @Argument(help: ArgumentHelp("The COW device: a file or block device.", valueName: "cow"))
  var cow: String

  @Option(help: "The origin: the list is compared with its size, which ends the last chunk.")
  var origin: String?

  @Flag(help: "Print the result as JSON.")
  var json = false

  @Flag(help: "Also look at devices that are held by another program.")
  var force = false

  /// Reads the store.
  func inspect() async throws(Refusal) -> StoreInspection {
    let files = SnapshotFiles(loop: try startLoop(), force: force)
    let cow = try files.openForReading(cow)
    var origin: FileDevice?
    if let path = self.origin { origin = try files.openForReading(path) }
    do throws(SnapshotError) {
      return try await StoreInspection(of: cow, origin: origin, on: files.loop)
    } catch {
      throw Refusal(error.description)
    }
  }
}

/// A loop of the best backend.
func startLoop(_ backend: BackendChoice = .auto) throws(Refusal) -> IOLoop {
  do throws(IOFailure) {
    return try IOLoop.start(backend: backend, logger: Output.logger)
  } catch {
    throw Refusal(error.description)
  }
}
