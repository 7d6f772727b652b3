import Foundation
import Testing

extension DaemonCommandTests {
  /// A daemon in a folder of its own; killed with its last reference.
  final class Daemon {
    let folder: Folder
    private(set) var running: Command.Running

    init(_ folder: Folder, _ options: String...) throws {
      self.folder = folder
      running = try Self.start(folder, options)
    }

    deinit { kill(running.process.processIdentifier, SIGKILL) }

    private static func start(_ folder: Folder, _ options: [String]) throws -> Command.Running {
      let running = try Command.start(
        [
          "serve", "--state", folder.file("state"), "--socket", folder.file("run/s"), "--unix",
          folder.file("nbd"),
        ] + options, in: folder)
      // It answers, or has ended.
      while running.process.isRunning {
        let look = try Command.run("dm", "ls", "--socket", folder.file("run/s"), in: folder)
        if look.status == 0 { break }
        usleep(20_000)
      }
      return running
    }

    func again(_ options: String...) throws { running = try Self.start(folder, options) }

    func killHard() {
      kill(running.process.processIdentifier, SIGKILL)
      running.process.waitUntilExit()
    }

    /// Ends it as systemd does.
    func stop() throws -> Command.Outcome {
      running.process.terminate()
      return try running.finish()
    }

    /// A command to it; `status` is the one it must end with.
    @discardableResult
    func run(
      _ arguments: String..., status: Int32 = 0, at location: SourceLocation = #_sourceLocation
    ) throws -> Command.Outcome {
      let outcome = try Command.run(arguments + ["--socket", folder.file("run/s")], in: folder)
      #expect(
        outcome.status == status, "\(arguments): \(outcome.output)\(outcome.errors)",
        sourceLocation: location)
      return outcome
    }

    var table: [String] {
      get throws {
        try run("dm", "table").output.split(separator: "\n").map(String.init)
      }
    }
  }
}
