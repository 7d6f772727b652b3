import ArgumentParser
import Daemon
import DeviceMapper
import Foundation

struct DeviceCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dm",
    abstract: "The daemon's devices, with the verbs of dmsetup.",
    discussion: """
      Tables are those of dmsetup: lines START LENGTH TARGET WORD…, in sectors, with paths, names \
      of other devices of the daemon, or nbd URIs as devices. They are given with --table, as a \
      file, or on standard input.
      """,
    subcommands: [
      CreateDevice.self, AttachDevice.self, LoadDevice.self, ClearDevice.self, SuspendDevice.self,
      ResumeDevice.self, StatusOfDevice.self, TableOfDevice.self, InfoOfDevice.self,
      ListDevices.self, DepsOfDevice.self, MessageDevice.self, WaitForDevice.self,
      RemoveDevice.self, RenameDevice.self, ListTargets.self, WipeDevice.self,
      FollowDevice.self,
    ])
}

struct CreateDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "create", abstract: "Make a device, load its table and resume it.",
    discussion: """
      With --concise NAME is dmsetup's concise format instead, for one or more devices, which are \
      all made or none: NAME,UUID,MINOR,FLAGS,LINE[,LINE…][;NAME,…], flags ro or rw, a backslash \
      before , ; and \\. Without it that is read from standard input. Numbers are taken and not \
      kept: no node of the system has them, and the daemon gives them anew at each start.
      """)

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "Its name.") var name: String?
  @Flag(help: "Make what is said in the concise format.") var concise = false
  @OptionGroup var tables: TableOptions
  @Option(name: .shortAndLong, help: "Its uuid.") var uuid: String?
  @Flag(name: [.short, .long], help: "Without a table: it stays suspended.") var notable = false
  @Flag(name: [.short, .long], help: "Refuse writes.") var readonly = false

  func run() async throws {
    if concise { return try await createConcise() }
    guard let name else { throw Refusal("the name is missing") }
    if notable, !tables.table.isEmpty || tables.file != nil {
      throw Refusal("--notable: a table is given")
    }
    let table = notable ? nil : try tables.text()
    _ = try await daemon.send(
      .create(name: name, uuid: uuid, table: table, readOnly: readonly))
  }

  private func createConcise() async throws {
    guard tables.table.isEmpty, tables.file == nil, uuid == nil, !notable, !readonly else {
      throw Refusal("--concise: everything else about the devices stands in the concise format")
    }
    let text = try name ?? tables.text()
    let devices: [ConciseDevice]
    do throws(DeviceMapperError) {
      devices = try ConciseText.devices(text)
    } catch {
      throw Refusal("--concise: \(error)")
    }
    let orders = devices.map {
      DeviceOrder(
        name: $0.name, uuid: $0.uuid.isEmpty ? nil : $0.uuid,
        table: $0.table.isEmpty ? nil : $0.table.joined(separator: "\n"), readOnly: $0.isReadOnly)
    }
    _ = try await daemon.send(.createAll(devices: orders))
  }
}

struct AttachDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attach",
    abstract: "Make a device of a whole file, disk or NBD export: one linear line over it.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "Its name.") var name: String
  @Argument(help: "The file or block device, or an NBD URI.") var file: String
  @Flag(name: [.short, .long], help: "Refuse writes.") var readonly = false
  @Flag(help: "Export it by its name, too.") var export = false

  func run() async throws {
    let answer = try await daemon.send(
      .attach(name: name, file: absolutePath(file), readOnly: readonly, export: export))
    if let text = answer.text { Output.say(text) }
  }
}

struct LoadDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load", abstract: "Build a table in the inactive slot.", aliases: ["reload"])

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var name: String
  @OptionGroup var tables: TableOptions

  func run() async throws {
    _ = try await daemon.send(.load(name: name, table: try tables.text()))
  }
}

struct ClearDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "clear", abstract: "Throw the inactive table away.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: ArgumentHelp("The devices.", valueName: "name")) var names: [String]

  func run() async throws {
    for name in names { _ = try await daemon.send(.clear(name: name)) }
  }
}

struct SuspendDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "suspend", abstract: "Hold requests back, after those under way have ended.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: ArgumentHelp("The devices.", valueName: "name")) var names: [String]
  @Flag(help: "Keep requests that a target pushes back, instead of failing them.")
  var noflush = false
  @Flag(help: "Taken for dmsetup's sake: no file system is frozen anyway.") var nolockfs = false

  func run() async throws {
    for name in names {
      _ = try await daemon.send(.suspend(name: name, noflush: noflush))
    }
  }
}

struct ResumeDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume",
    abstract: "Make the inactive table the live one, and let requests go on.",
    discussion: "A device that couldn't come back after a restart is tried again.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: ArgumentHelp("The devices.", valueName: "name")) var names: [String]
  @Flag(help: "When it must be suspended before, do that without flushing.") var noflush = false
  @Flag(help: "Taken for dmsetup's sake: no file system is frozen anyway.") var nolockfs = false

  func run() async throws {
    for name in names {
      _ = try await daemon.send(.resume(name: name, noflush: noflush))
    }
  }
}

struct MessageDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "message", abstract: "Send a message to the target at a sector.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var name: String
  @Argument(help: "The sector.") var sector: UInt64
  @Argument(parsing: .remaining, help: "The message.") var message: [String]

  func run() async throws {
    guard !message.isEmpty else { throw Refusal("the message is missing") }
    let answer = try await daemon.send(
      .message(name: name, sector: sector, text: message.joined(separator: " ")))
    if let text = answer.text { Output.say(text) }
  }
}

struct WaitForDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "wait", abstract: "Return when the device's event number has changed.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var name: String
  @Argument(help: "The number it must differ from. (default: what it is now)") var event: UInt32?
  @Flag(help: "Print the new number as JSON.") var json = false

  func run() async throws {
    guard case .event(let number) = try await daemon.send(.wait(name: name, event: event)) else {
      return
    }
    if json { Output.say(try encodeJSON(["event": number])) }
  }
}

struct RemoveDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "remove", abstract: "Take a device away; what it lies on stays as it is.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: ArgumentHelp("The devices.", valueName: "name")) var names: [String]
  @Flag(name: .shortAndLong, help: "First have all its requests fail.") var force = false
  @Flag(help: "If a table uses it or it is exported: when neither is so any more.")
  var deferred = false

  @Flag(help: "Taken for dmsetup's sake: an open device is tried for a second anyway.")
  var retry = false

  func run() async throws {
    for name in names {
      _ = try await daemon.send(.remove(name: name, force: force, deferred: deferred))
    }
  }
}

struct RenameDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rename", abstract: "Give a device another name, or a uuid if it has none.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var name: String
  @Argument(help: "The new name, or with --setuuid its uuid.") var to: String
  @Flag(help: "Set the uuid.") var setuuid = false

  func run() async throws {
    _ = try await daemon.send(.rename(name: name, to: to, isUUID: setuuid))
  }
}

struct ListTargets: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "targets", abstract: "The targets that tables may have.")

  @OptionGroup var daemon: DaemonOptions

  func run() async throws {
    guard case .targets(let targets) = try await daemon.send(.targets) else { return }
    for target in targets {
      Output.say(
        target.name.padding(toLength: max(16, target.name.count), withPad: " ", startingAt: 0)
          + " \(target.version)")
    }
  }
}

struct WipeDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "wipe-table", abstract: "Have every request of a device fail.",
    aliases: ["wipe_table"])

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: ArgumentHelp("The devices.", valueName: "name")) var names: [String]
  @Flag(help: "Don't wait for requests that a target holds.") var noflush = false

  func run() async throws {
    for name in names {
      _ = try await daemon.send(.wipeTable(name: name, noflush: noflush))
    }
  }
}

struct FollowDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "follow", abstract: "Wait for the end of a merge, a move or a mirror's sync.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var name: String
  @Flag(name: .shortAndLong, help: "No progress.") var quiet = false

  func run() async throws {
    let answer = try await daemon.follow(.follow(device: name), quiet: quiet)
    if let text = answer.text, !quiet { Output.say(text) }
  }
}
