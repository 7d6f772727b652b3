import ArgumentParser
import BlockIO
import Mirrors

struct MirrorCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mirror",
    abstract: "Legs of the daemon's devices; mirrors of the device-mapper: log, check, sync.",
    discussion: """
      A mirror is two to nine legs – files or block devices that hold the same – and a log with a \
      bit per region, in the Linux kernel's own format. The region size isn't in the log: it must \
      be the one that the mirror was used with. add, split and remove work on devices of the \
      daemon (kcopyd serve), while they are in use; the others on legs that nobody uses.
      """,
    subcommands: [
      MirrorCreateLogCommand.self, MirrorInfoCommand.self, MirrorCheckCommand.self,
      MirrorSyncCommand.self, MirrorAddCommand.self, MirrorSplitCommand.self,
      MirrorRemoveCommand.self,
    ])
}

/// The legs of a mirror and its log, as the commands are given them.
struct MirrorOptions: ParsableArguments {
  @Argument(
    help: ArgumentHelp("The legs, 2 to 9; the first one is trusted.", valueName: "leg"))
  var legs: [String] = []

  @Option(help: "The log device.")
  var log: String?

  @Option(
    help: """
      The sidecar that says which leg is right where they differ: 128 KiB, zeros when new. Without \
      it the first leg is.
      """)
  var sidecar: String?

  @Option(help: "Size of a region, a power of two; that of the mirror that wrote the log.")
  var region: String = "2MiB"

  @Flag(help: "Print the result as JSON.")
  var json = false

  @Flag(name: .shortAndLong, help: "No progress, no summary; errors only.")
  var quiet = false

  @Flag(help: "Also use block devices that are mounted or held by another program.")
  var force = false

  /// The legs, opened and locked.
  func open(isWritable: Bool, on loop: IOLoop) throws(Refusal) -> [FileDevice] {
    try legs.openAll(isWritable: isWritable, force: force, on: loop)
  }

  func openLog(isWritable: Bool, on loop: IOLoop) throws(Refusal) -> FileDevice? {
    guard let log else { return nil }
    if let leg = legs.first(where: { isSameFile($0, log) }) {
      throw Refusal("'\(leg)' and '\(log)' are the same device")
    }
    return try [log].openAll(isWritable: isWritable, force: force, on: loop)[0]
  }

  /// Opens the sidecar; refuses what is none, or one of another mirror.
  func openSidecar(
    isWritable: Bool, of legs: [FileDevice], on loop: IOLoop
  ) async throws(Refusal) -> (device: FileDevice, content: MirrorSidecar)? {
    guard let sidecar else { return nil }
    let others = self.legs + [log].compactMap(\.self)
    if let other = others.first(where: { isSameFile($0, sidecar) }) {
      throw Refusal("'\(other)' and '\(sidecar)' are the same device")
    }
    let device = try [sidecar].openAll(isWritable: isWritable, force: force, on: loop)[0]
    let count = try regionCount(legs)
    let size = try regionSize(region)
    do throws(MirrorError) {
      let content = try await MirrorSidecar(of: device)
      try content.checkFits(
        legCount: legs.count, regionCount: count, regionSize: size, name: device.name)
      return (device, content)
    } catch {
      throw Refusal(error.description)
    }
  }

  /// How many regions a mirror of these legs has.
  func regionCount(_ legs: [FileDevice]) throws(Refusal) -> UInt64 {
    try regionSize(region).count(in: legs.map(\.sectorCount).min() ?? .zero)
  }

  /// Reads the log; refuses what is no log, or one of another mirror.
  func readLog(_ log: FileDevice, of legs: [FileDevice]) async throws(Refusal) -> MirrorLog {
    let count = try regionCount(legs)
    do throws(MirrorError) {
      let found = try await MirrorLog(of: log, regionCount: count)
      try found.checkFits(count, name: log.name)
      return found
    } catch {
      throw Refusal(error.description)
    }
  }

  /// A mirror of the legs, not resumed.
  func mirror(
    _ devices: [FileDevice], log: FileDevice?, sidecar: FileDevice? = nil,
    sync: MirrorParameters.SyncPolicy? = nil, on loop: IOLoop
  ) throws(Refusal) -> MirrorDevice {
    var parameters = MirrorParameters(regionSize: try regionSize(region))
    parameters.sync = sync
    // A leg that fails is left behind, and said so in the end.
    parameters.handlesErrors = true
    do throws(MirrorError) {
      return try MirrorDevice(
        legs: devices.map { MirrorLeg($0) }, log: log, sidecar: sidecar, parameters: parameters,
        on: loop)
    } catch {
      throw Refusal(error.description)
    }
  }
}

extension [String] {
  /// Opens all of them; one under two names is refused before its own lock does so.
  func openAll(
    isWritable: Bool, force: Bool, on loop: IOLoop
  ) throws(Refusal) -> [FileDevice] {
    var opened: [FileDevice] = []
    for (index, path) in enumerated() {
      if let other = prefix(index).first(where: { isSameFile($0, path) }) {
        throw Refusal("'\(other)' and '\(path)' are the same device")
      }
      opened.append(
        try openDevice(
          path,
          .init(
            isWritable: isWritable, isExclusive: !force,
            lock: isWritable ? .exclusive : .shared),
          on: loop))
    }
    return opened
  }
}

/// The size of a region from the command line.
func regionSize(_ text: String) throws(Refusal) -> RegionSize {
  guard let size = RegionSize(try Sector(text, option: "--region")) else {
    throw Refusal("--region: '\(text)' must be a power of two of at least 2 sectors")
  }
  return size
}
