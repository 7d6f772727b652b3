import ArgumentParser
import Daemon
import Foundation

/// Where a table comes from.
struct TableOptions: ParsableArguments {
  @Option(help: "The table, or one line of it. Repeatable.")
  var table: [String] = []

  @Argument(
    help: ArgumentHelp(
      "A file with the table; - or nothing: standard input.",
      valueName: "file"))
  var file: String?

  /// The most that is read.
  private static let maximumBytes = 512 << 10

  func text() throws -> String {
    if !table.isEmpty {
      if file != nil { throw Refusal("--table: there is a file with a table, too") }
      return table.joined(separator: "\n")
    }
    let input = file == "-" ? nil : file
    let name = input.map { "'\($0)'" } ?? "standard input"
    let data: Data
    do {
      let handle =
        try input.map { try FileHandle(forReadingFrom: URL(fileURLWithPath: $0)) }
        ?? .standardInput
      data = try handle.read(upToCount: Self.maximumBytes + 1) ?? Data()
    } catch {
      throw Refusal("the table: \(name) can't be read: \(error.plainReason)")
    }
    guard data.count <= Self.maximumBytes else {
      throw Refusal("the table: \(name) is longer than 512 KiB")
    }
    guard let text = String(data: data, encoding: .utf8) else {
      throw Refusal("the table: \(name) is no text in UTF-8")
    }
    return text
  }
}
