import Foundation

/// Makes the images that a real kernel is asked to read, and says what it must find in them.
@main
enum Command {
  private static let usage = """
    usage: kcopyd-interop snapshots|mirrors list
           kcopyd-interop snapshots|mirrors make SCENARIO FOLDER

    list prints the names of the scenarios. make plays one with the library Snapshots or Mirrors on
    files in FOLDER, which must be empty: origin.img, cow.img (and cow2.img), or leg0.img, leg1.img,
    ... and log.img; and writes what the kernel must make of them: expected-*.

    """

  static func main() async {
    let arguments = Array(CommandLine.arguments.dropFirst())
    switch arguments.first {
    case "snapshots":
      await run(arguments, Scenario.all.map { ($0.name, $0.make) })
    case "mirrors":
      await run(arguments, MirrorScenario.all.map { ($0.name, $0.make) })
    case "-h", "--help": print(usage, terminator: "")
    default: end("wrong arguments\n\(usage)", status: 2)
    }
  }

  private static func run(
    _ arguments: [String], _ scenarios: [(name: String, make: (Folder) async throws -> Void)]
  ) async {
    switch (arguments.dropFirst().first, arguments.count) {
    case ("list", 2):
      print(scenarios.map(\.name).joined(separator: "\n"))
    case ("make", 4):
      guard let scenario = scenarios.first(where: { $0.name == arguments[2] }) else {
        end("'\(arguments[2])' is no scenario of \(arguments[0])", status: 2)
      }
      do {
        try await scenario.make(Folder(path: arguments[3]))
      } catch {
        end("\(scenario.name): \(error)", status: 1)
      }
    default: end("wrong arguments\n\(usage)", status: 2)
    }
  }

  private static func end(_ message: String, status: Int32) -> Never {
    FileHandle.standardError.write(Data("kcopyd-interop: \(message)\n".utf8))
    exit(status)
  }
}
