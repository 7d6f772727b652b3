import ArgumentParser
import BlockIO
import Daemon
import Foundation
import Kcopyd
import Mirrors
import SystemPackage

struct MoveCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "move",
    abstract: "Move a file or disk that is not in use, or with --live a device of the daemon.",
    usage: """
      kcopyd move SOURCE DEST [--state STATE] [--verify] [--json] [--force]
      kcopyd move --live DEVICE DEST [--socket SOCKET] [--detach]
      kcopyd move --abort DEVICE [--socket SOCKET]
      """,
    discussion: """
      With --live a device of the daemon (kcopyd serve) is moved to DEST while it is in use: until \
      the end both places hold it, and the old one counts. The daemon goes on over interruptions of \
      this command, and of itself; --abort leaves the device where it was. Without --live:

      The source is only read, and valid until the end and after it. How far the copy is stands in \
      a state file, a mirror log: after a kill, a loss of power or an error the same command goes \
      on. When everything is durable on the destination the state file is removed.
      """)

  @Argument(help: ArgumentHelp("File or block device to move from.", valueName: "source"))
  var source: String

  @Argument(
    help: ArgumentHelp("File or block device to move to; a file is made.", valueName: "dest"))
  var goal: String?

  @Flag(help: "SOURCE is a device of the daemon, in use.")
  var live = false

  @Flag(help: "Stop moving a device of the daemon.")
  var abort = false

  @Flag(help: "With --live: don't wait until it has moved.")
  var detach = false

  @OptionGroup var daemon: DaemonOptions

  private var destination: String { goal ?? "" }

  @Option(help: "The state file. (default: DEST.kcopyd-move; needed for a block device)")
  var state: String?

  @Flag(help: "Compare both before it is called done.")
  var verify = false

  @Flag(help: "Print the result as JSON.")
  var json = false

  @Flag(name: .shortAndLong, help: "No progress, no summary; errors only.")
  var quiet = false

  @Flag(help: "Also use block devices that are mounted or held by another program.")
  var force = false

  /// What is copied in one go, and noted as done.
  private static let region = Sector(holding: 2 << 20)

  func run() async throws {
    if live || abort { return try await moveLive() }
    if detach || daemon.socket != nil {
      throw Refusal("--detach, --socket: only with --live or --abort")
    }
    guard goal != nil else { throw Refusal("the destination is missing") }
    try await copy()
  }

  private func moveLive() async throws {
    if state != nil || verify || json || force {
      throw Refusal("--state, --verify, --json, --force: not for a device of the daemon")
    }
    if abort {
      guard goal == nil, !live else { throw Refusal("--abort: only the device is given") }
      let answer = try await daemon.send(.moveAbort(device: source))
      if let text = answer.text, !quiet { Output.say(text) }
      return
    }
    guard let goal else { throw Refusal("the destination is missing") }
    let answer = try await daemon.follow(
      .move(device: source, to: absolutePath(goal), isDetached: detach), quiet: quiet)
    if let text = answer.text, !quiet { Output.say(text) }
  }

  private func copy() async throws {
    let interruption = Interruption()
    if isSameFile(source, destination) {
      throw Refusal("'\(destination)' is the source itself")
    }
    let loop = try startLoop()
    let from = try openDevice(
      source, .init(isWritable: false, isExclusive: !force, lock: .shared), on: loop)
    guard from.sectorCount > .zero else { throw Refusal("'\(source)' is empty: nothing to move") }
    let plan = try MovePlan(
      from, to: destination, state: statePath(), force: force, on: loop)
    let mirror = try plan.mirror(from, region: Self.region, on: loop)
    try await plan.prepareLog(region: Self.region, from)
    let run = MirrorRun(mirror: mirror, title: "moving", quiet: quiet || json)
    let outcome = try await run.recover(interruption)
    if outcome.isInSync, verify { try await compare(from, plan.target, loop) }
    if outcome.isInSync { try plan.finish() }
    try report(outcome, json, quiet) { "moved '\(source)' to '\(destination)'" }
  }

  private func statePath() throws(Refusal) -> String {
    if let state { return state }
    var status = stat()
    if stat(destination, &status) == 0, status.st_mode & S_IFMT == S_IFBLK {
      throw Refusal("--state: give a state file, as '\(destination)' is a block device")
    }
    return destination + ".kcopyd-move"
  }

  private func compare(
    _ from: FileDevice, _ to: FileDevice, _ loop: IOLoop
  ) async throws {
    let client = try KcopydClient(on: loop)
    let result = try await client.compare(
      IORegion(from, count: from.sectorCount), IORegion(to, count: from.sectorCount))
    guard result.isEqual else {
      Output.complain(
        "'\(destination)' differs from '\(source)' in \(result.differing.rawValue) sectors:"
          + " \(Format.ranges(result.ranges)); the state file is kept, give it up to start anew")
      throw Ended(status: 1)
    }
  }
}

/// Where a move goes to, and the state it is kept in: new ones, or those it goes on with.
private struct MovePlan {
  let target: FileDevice
  let log: FileDevice
  private let statePath: String

  /// Says in the state file – between header and bits of the log, which leave that place alone –
  /// what is being moved.
  private static let labelSector: Range<Sector> = 1..<2
  /// What of a state file is written first.
  private static let head: Range<Sector> = 0..<2

  /// Opens or makes destination and state. A destination that exists is written over only if it
  /// belongs to the state.
  init(
    _ source: FileDevice, to path: String, state: String, force: Bool, on loop: IOLoop
  ) throws(Refusal) {
    let exists = FileManager.default.fileExists(atPath: path)
    let isNew = !FileManager.default.fileExists(atPath: state)
    statePath = state
    if isSameFile(state, path) || isSameFile(state, source.name) {
      throw Refusal("--state: '\(state)' is one of the devices")
    }
    if !isNew, !exists {
      throw Refusal("there is a state file '\(state)', but no '\(path)'; remove one or make both")
    }
    var made: [String] = []
    do throws(Refusal) {
      if exists {
        target = try openDevice(
          path, .init(isWritable: true, isExclusive: !force, lock: .exclusive), on: loop)
        guard !target.sharesSectors(with: source) else {
          throw Refusal("'\(path)' and '\(source.name)' share sectors: one lies on the other")
        }
        guard target.byteCount >= source.byteCount else {
          throw Refusal(
            "'\(path)' is too small: it has \(target.byteCount) bytes, \(source.byteCount)"
              + " are needed")
        }
      } else {
        target = try Self.create(path, source.byteCount, loop)
        made.append(path)
      }
      if isNew {
        log = try Self.create(state, 4096 + (source.byteCount >> 21) / 8 / 4096 * 4096 + 4096, loop)
        made.append(state)
      } else {
        log = try openDevice(state, .init(isWritable: true, lock: .exclusive), on: loop)
      }
    } catch {
      for path in made { unlink(path) }
      throw error
    }
  }

  private static func create(
    _ path: String, _ byteCount: UInt64, _ loop: IOLoop
  ) throws(Refusal) -> FileDevice {
    do throws(IOFailure) {
      return try FileDevice.create(path, byteCount: byteCount, on: loop)
    } catch {
      throw Refusal("cannot create '\(path)': \(error.reason)")
    }
  }

  /// A mirror of both, whose recovery is the move.
  func mirror(
    _ source: FileDevice, region: Sector, on loop: IOLoop
  ) throws(Refusal) -> MirrorDevice {
    // A source smaller than a region is one region.
    var size = region
    while size > source.sectorCount, size > 2 { size = Sector(size.rawValue / 2) }
    guard let regionSize = RegionSize(size) else { throw Refusal("an impossible region size") }
    var parameters = MirrorParameters(regionSize: regionSize)
    parameters.handlesErrors = true
    do throws(MirrorError) {
      return try MirrorDevice(
        legs: [MirrorLeg(source), MirrorLeg(target)], log: log, sectorCount: source.sectorCount,
        parameters: parameters, on: loop)
    } catch {
      throw Refusal(error.description)
    }
  }

  /// Makes a new state say what it is for; refuses one that is for something else.
  func prepareLog(region: Sector, _ source: FileDevice) async throws(Refusal) {
    let label = Self.label(source, target)
    do throws(IOFailure) {
      let pages = try PagePool.lend(holding: Self.head.length)
      let head = pages.buffer.slice(0, Self.head.length)
      try await log.read(Self.head, into: head)
      let buffer = head.slice(1, 1)
      // Nothing is there either when the first attempt was killed before it came to this.
      if head.isZero {
        buffer.load(from: label)
        try await log.write(Self.labelSector, from: buffer)
        return try await log.flush()
      }
      var found = [UInt8](repeating: 0, count: 512)
      buffer.store(into: &found)
      if found != label {
        throw IOFailure(
          .read, statePath, errno: .invalidArgument,
          detail: "it belongs to the move of something else")
      }
    } catch {
      throw Refusal(error.description)
    }
  }

  /// 512 bytes that are the same only for the same two devices.
  private static func label(_ source: FileDevice, _ target: FileDevice) -> [UInt8] {
    let text =
      "kcopyd move 1\n\(source.identity)\n\(target.identity)\n\(source.byteCount)\n"
    let bytes = Array(text.utf8.prefix(512))
    return bytes + Array(repeating: 0, count: 512 - bytes.count)
  }

  /// Everything is there: the state has done its work.
  func finish() throws(Refusal) {
    guard unlink(statePath) == 0 else {
      throw Refusal(
        "moved, but '\(statePath)' can't be removed: \(String(cString: strerror(errno)))")
    }
  }
}
