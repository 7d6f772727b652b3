import ArgumentParser
import Daemon

struct ExportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export", abstract: "Serve a device of the daemon over NBD.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The device.") var name: String
  @Option(name: .customLong("as"), help: "The name that clients ask for. (default: the device's)")
  var export: String?
  @Flag(name: [.short, .long], help: "Refuse writes.") var readonly = false

  func run() async throws {
    let answer = try await daemon.send(.export(name: name, as: export, readOnly: readonly))
    if let text = answer.text { Output.say(text) }
  }
}

struct UnexportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "unexport",
    abstract: "Stop serving an export; what its clients were promised is done first.")

  @OptionGroup var daemon: DaemonOptions
  @Argument(help: "The export.") var export: String

  func run() async throws { _ = try await daemon.send(.unexport(export: export)) }
}

struct ExportsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "exports", abstract: "What the daemon serves, and where.")

  @OptionGroup var daemon: DaemonOptions
  @Flag(help: "Print as JSON.") var json = false

  func run() async throws {
    guard case .exports(let exports) = try await daemon.send(.exports) else { return }
    if json { return Output.say(try encodeJSON(exports)) }
    if exports.isEmpty { return Output.say("nothing is exported") }
    Output.say(
      Format.table(
        exports.map { export in
          [
            export.export, export.device, Format.bytes(export.byteCount),
            export.isReadOnly ? "ro" : "rw", "\(export.connections) clients",
            export.problem.map { "not served: \($0)" } ?? export.uris.joined(separator: " "),
          ]
        }))
  }
}
