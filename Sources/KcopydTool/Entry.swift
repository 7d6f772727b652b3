import ArgumentParser
import Foundation

/// Copies block devices and files, one to many.
struct KcopydCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kcopyd",
    abstract: "Copies one file, disk or image to many at once, and says exactly what is where.",
    discussion: """
      Sizes and places: a plain number counts sectors of 512 bytes; units are s (sectors), KiB, \
      MiB, GiB, TiB and kB, MB, GB, TB (which must make whole sectors).

      Exit status: 0 all is well and durable; 1 it ended with errors, or what was compared \
      differs; 2 wrong use, and nothing was written; 130 interrupted.
      """,
    version: "kcopyd \(kcopydVersion)",
    subcommands: [
      CopyCommand.self, ZeroCommand.self, CompareCommand.self, InfoCommand.self,
      MoveCommand.self, SnapshotCommand.self, MirrorCommand.self, ServeCommand.self,
      DeviceCommand.self, ExportCommand.self, UnexportCommand.self, ExportsCommand.self,
      DemoCommand.self,
    ])
}

/// The version of the command, the library and the package.
let kcopydVersion = "0.1.0"

/// Ends a command with a status, all having been said.
struct Ended: Error {
  let status: Int32
}

/// A refusal: one line, status 2, nothing written.
struct Refusal: Error {
  let reason: String

  init(_ reason: String) { self.reason = reason }
}

@main
enum Entry {
  static func main() async {
    // A reader that goes away must not kill a copy.
    signal(SIGPIPE, SIG_IGN)
    exit(await status(of: Array(CommandLine.arguments.dropFirst())))
  }

  /// Runs the command line and returns its exit status.
  static func status(of arguments: [String]) async -> Int32 {
    do {
      var command = try KcopydCommand.parseAsRoot(arguments)
      if var asynchronous = command as? any AsyncParsableCommand {
        try await asynchronous.run()
      } else {
        try command.run()
      }
      return 0
    } catch let ended as Ended {
      return ended.status
    } catch let refusal as Refusal {
      Output.complain(refusal.reason)
      return 2
    } catch {
      return complain(about: error)
    }
  }

  /// Help and version go to standard output; everything else is a wrong use of the command.
  private static func complain(about error: any Error) -> Int32 {
    if KcopydCommand.exitCode(for: error) == .success {
      Output.say(KcopydCommand.fullMessage(for: error))
      return 0
    }
    let message = KcopydCommand.message(for: error)
      .split(whereSeparator: \.isNewline).joined(separator: " ")
    Output.complain("\(message) (see 'kcopyd --help')")
    return 2
  }
}
