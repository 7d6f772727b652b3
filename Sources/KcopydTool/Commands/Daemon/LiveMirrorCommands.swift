import ArgumentParser
import BlockIO
import Daemon
import Mirrors

struct MirrorAddCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "add",
    abstract: "Add a leg to a device of the daemon while it is in use.",
    discussion: """
      A linear device becomes a mirror. The leg is overwritten; a file that isn't there is made. \
      Its dirty log lies in the daemon's state folder. Waits until the legs are in sync: an \
      interruption doesn't stop that, the same command waits again.
      """)

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var device: String
  @Argument(help: "The leg: a file, block device or NBD URI; it is overwritten.") var leg: String
  @Option(help: "Size of a region, a power of two. (default: 2MiB)") var region: String?
  @Flag(help: "Don't wait until it is in sync.") var detach = false
  @Flag(name: .shortAndLong, help: "No progress.") var quiet = false

  func run() async throws {
    let region = try region.map { try regionSize($0).sectors.rawValue }
    let answer = try await daemon.follow(
      .mirrorAdd(
        device: device, leg: absolutePath(leg), region: region, isDetached: detach), quiet: quiet)
    if let text = answer.text, !quiet { Output.say(text) }
  }
}

struct MirrorSplitCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "split",
    abstract: "Take a leg off a device of the daemon, as a copy of this instant.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var device: String
  @Argument(help: "The leg.") var leg: String
  @Option(name: .customLong("as"), help: "Make a device of this name of it.") var name: String?

  func run() async throws {
    let answer = try await daemon.send(
      .mirrorSplit(device: device, leg: absolutePath(leg), as: name))
    if let text = answer.text { Output.say(text) }
  }
}

struct MirrorRemoveCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "remove",
    abstract: "Take a leg off a device of the daemon, also one that failed.",
    discussion: "With one leg left the device is linear again.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var device: String
  @Argument(help: "The leg.") var leg: String

  func run() async throws {
    let answer = try await daemon.send(.mirrorRemove(device: device, leg: absolutePath(leg)))
    if let text = answer.text { Output.say(text) }
  }
}
