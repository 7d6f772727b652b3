import ArgumentParser
import Daemon
import DeviceMapper
import Foundation

/// Which devices are looked at.
struct DeviceChoice: ParsableArguments {
  @Argument(help: ArgumentHelp("The devices. (default: all)", valueName: "name"))
  var names: [String] = []

  /// Whether each line says which device it is of.
  var areSeveral: Bool { names.count != 1 }

  /// What is asked for, once for each.
  var wanted: [String?] { names.isEmpty ? [nil] : names }

  /// The lines of all of them.
  func lines(
    _ daemon: DaemonOptions, _ request: (String?) -> ControlRequest
  ) async throws -> [DeviceLines] {
    var all: [DeviceLines] = []
    for name in wanted {
      if case .lines(let devices) = try await daemon.send(request(name)) { all += devices }
    }
    return all
  }

  /// All that is known of them.
  func summaries(_ daemon: DaemonOptions) async throws -> [DeviceSummary] {
    var all: [DeviceSummary] = []
    for name in wanted {
      if case .devices(let devices) = try await daemon.send(.info(name: name)) { all += devices }
    }
    return all
  }
}

struct StatusOfDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "How targets are doing, a line for each.")

  @OptionGroup var daemon: DaemonOptions
  @OptionGroup var devices: DeviceChoice
  @Flag(help: "Those of the inactive table.") var inactive = false
  @Option(help: "Only targets of this kind.") var target: String?
  @Flag(help: "Taken for dmsetup's sake: nothing is flushed anyway.") var noflush = false
  @Flag(help: "Print as JSON.") var json = false

  func run() async throws {
    let lines = try await devices.lines(daemon) { .status(name: $0, inactive: inactive) }
    try DeviceOutput.lines(lines, of: target, isNamed: devices.areSeveral, json)
  }
}

struct TableOfDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "table", abstract: "Tables, as they can be loaded.",
    discussion: """
      Devices are called by path and name rather than by number, so that a table means the same at the \
      next start of the daemon.
      """)

  @OptionGroup var daemon: DaemonOptions
  @OptionGroup var devices: DeviceChoice
  @Flag(help: "The inactive ones.") var inactive = false
  @Option(help: "Only targets of this kind.") var target: String?
  @Flag(help: "Print devices with their tables on one line, as 'create --concise' takes them.")
  var concise = false
  @Flag(help: "Print as JSON.") var json = false

  func run() async throws {
    let lines = try await devices.lines(daemon) { .table(name: $0, inactive: inactive) }
    guard concise else {
      return try DeviceOutput.lines(lines, of: target, isNamed: devices.areSeveral, json)
    }
    guard !json, target == nil else { throw Refusal("--concise: it is whole, and no JSON") }
    let tables = Dictionary(lines.map { ($0.name, $0.lines) }) { $1 }
    let concise = try await devices.summaries(daemon).filter { $0.problem == nil }.map {
      ConciseDevice(
        name: $0.name, uuid: $0.uuid ?? "", minor: $0.minor, isReadOnly: $0.isReadOnly,
        table: (tables[$0.name] ?? []).map(DeviceOutput.trimmed))
    }
    Output.say(concise.isEmpty ? "No devices found" : ConciseText.text(concise))
  }
}

struct DepsOfDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "deps", abstract: "What live tables stand on.")

  @OptionGroup var daemon: DaemonOptions
  @OptionGroup var devices: DeviceChoice
  @Flag(help: "Print as JSON.") var json = false

  func run() async throws {
    let lines = try await devices.lines(daemon) { .deps(name: $0) }
    if json { return Output.say(try encodeJSON(lines)) }
    if lines.isEmpty { return Output.say("No devices found") }
    for device in lines {
      let list = device.lines.map { "(\(DeviceOutput.number($0)))" }.joined(separator: " ")
      let prefix = devices.areSeveral ? "\(device.name): " : ""
      Output.say("\(prefix)\(device.lines.count) dependencies\t: \(list)")
    }
  }
}

struct InfoOfDevice: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "info", abstract: "State, tables, open count and events of devices.")

  @OptionGroup var daemon: DaemonOptions
  @OptionGroup var devices: DeviceChoice
  @Flag(help: "Print as JSON.") var json = false

  func run() async throws {
    let summaries = try await devices.summaries(daemon)
    if json { return Output.say(try encodeJSON(summaries)) }
    if summaries.isEmpty { return Output.say("No devices found") }
    for summary in summaries { Output.say(DeviceOutput.info(summary) + "\n") }
  }
}

struct ListDevices: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ls", abstract: "Devices, with what goes on and what couldn't come back.")

  @OptionGroup var daemon: DaemonOptions
  @Option(help: "Only devices that have a target of this kind.") var target: String?
  @Flag(help: "Print as JSON.") var json = false

  func run() async throws {
    guard case .devices(var devices) = try await daemon.send(.list) else { return }
    if let target {
      guard case .lines(let lines) = try await daemon.send(.status(name: nil, inactive: false))
      else { return }
      let names = lines.filter { !DeviceOutput.lines($0.lines, of: target).isEmpty }.map(\.name)
      devices.removeAll { !names.contains($0.name) }
    }
    if json { return Output.say(try encodeJSON(devices)) }
    if devices.isEmpty { return Output.say("No devices found") }
    for device in devices {
      let remark = (device.problem.map { "not there: \($0)" } ?? device.operation)
        .map { "\t\($0)" }
      let number = device.problem == nil ? "\(DeviceOutput.major):\(device.minor)" : "-"
      Output.say("\(device.name)\t(\(number))\(remark ?? "")")
    }
  }
}
