import ArgumentParser
import BlockIO
import Daemon

struct SnapshotTakeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "take",
    abstract: "Take a snapshot of a device of the daemon while it is in use.",
    discussion: """
      The device is suspended for a moment, so that the snapshot is what its clients had been \
      promised then. Several names with as many --of and --cow, in the same order, are taken at one \
      instant. The first time DEVICE becomes an origin over a new device DEVICE-real, which takes \
      its table. The snapshot is a device of its own, exported with --export.
      """)

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: ArgumentHelp("The snapshot's name. Repeatable.", valueName: "name"))
  var names: [String]
  @Option(name: .customLong("of"), help: "The device it is taken of. Repeatable.")
  var origins: [String]
  @Option(help: "Where old data go: a file or block device. Repeatable.") var cow: [String]
  @Option(help: "Size of a COW file that is to be made. (default: enough for every chunk)")
  var size: String?
  @Option(help: "Size of a chunk: a power of two from 4KiB on.") var chunk: String = "16KiB"
  @Option(help: "Let a full COW file grow up to this size.") var growLimit: String?
  @Option(
    help: "A full COW device: invalidate the snapshot, or hold:SECONDS (origin writes wait).")
  var whenFull: String = "invalidate"
  @Flag(help: "Export the snapshot by its name, too.") var export = false

  func run() async throws {
    guard names.count == origins.count, names.count == cow.count else {
      throw Refusal(
        "\(names.count) names, \(origins.count) --of and \(cow.count) --cow: one of each is needed "
          + "for every snapshot")
    }
    let size = try size.map { try Size.bytes($0, plain: 512, option: "--size") }
    let chunkSectors = try Sector(chunk, option: "--chunk").rawValue
    guard chunkSectors >= 8, chunkSectors & (chunkSectors - 1) == 0 else {
      throw Refusal("--chunk: '\(chunk)' is no power of two from 4KiB on")
    }
    let limit = try growLimit.map { try Sector($0, option: "--grow-limit") }
    let features = SnapshotOrder.features(
      growLimitSectors: limit?.rawValue, holdMilliseconds: try holdTime())
    let orders = names.indices.map { index in
      SnapshotOrder(
        name: names[index], origin: origins[index], cow: absolutePath(cow[index]), size: size,
        chunkSectors: chunkSectors, features: features)
    }
    let answer = try await daemon.send(.snapshotTake(snapshots: orders, export: export))
    if let text = answer.text { Output.say(text) }
  }

  private func holdTime() throws(Refusal) -> UInt64? {
    if whenFull == "invalidate" { return nil }
    guard whenFull.hasPrefix("hold:"), let seconds = UInt64(whenFull.dropFirst(5)),
      1...1_000_000 ~= seconds
    else { throw Refusal("--when-full: '\(whenFull)' is neither invalidate nor hold:SECONDS") }
    return seconds * 1000
  }
}

struct SnapshotDropCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "drop",
    abstract: "Give a snapshot of the daemon up.",
    discussion: """
      Its origin is what it was before when that was the last one; whoever uses the origin goes on \
      meanwhile. Clients of the snapshot itself are in the way, unless --force disconnects them. \
      The COW file stays, and may be deleted. A merge that has stopped for good is given up with \
      --force: what hasn't been merged is in the COW file alone then.
      """)

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The snapshot.") var name: String
  @Flag(name: .shortAndLong, help: "Disconnect the clients of the snapshot's own export.")
  var force = false

  func run() async throws {
    let answer = try await daemon.send(.snapshotDrop(name: name, force: force))
    if let text = answer.text { Output.say(text) }
  }
}
