import Foundation

/// Makes the images that a real kernel is asked to read, and says what it must find in them.
@main
enum Command {
  private static let usage = """
    usage: kcopyd-interop list
           kcopyd-interop make SCENARIO FOLDER

    list prints the names of the scenarios. make plays one with the library Snapshots on files in
    FOLDER, which must be empty: origin.img, cow.img (and cow2.img), and what the kernel must say
    of them: expected-*.

    """

  static func main() async {
    let arguments = Array(CommandLine.arguments.dropFirst())
    switch arguments.first {
    case "list" where arguments.count == 1:
      print(Scenario.all.map(\.name).joined(separator: "\n"))
    case "make" where arguments.count == 3:
      let name = arguments[1]
      guard let scenario = Scenario.all.first(where: { $0.name == name }) else {
        end("'\(name)' is no scenario; see kcopyd-interop list", status: 2)
      }
      do {
        try await scenario.make(in: Folder(path: arguments[2]))
      } catch {
        end("\(scenario.name): \(error)", status: 1)
      }
    case "-h", "--help": print(usage, terminator: "")
    default: end("wrong arguments\n\(usage)", status: 2)
    }
  }

  private static func end(_ message: String, status: Int32) -> Never {
    FileHandle.standardError.write(Data("kcopyd-interop: \(message)\n".utf8))
    exit(status)
  }
}
