import Foundation
import Logging

/// Where the command speaks: results to standard output, everything else to standard error. A
/// reader that has gone away is no reason to stop.
enum Output {
  /// A line, or several, of the result.
  static func say(_ text: String) { write(text + "\n", to: 1) }

  /// A line for the person at the terminal.
  static func note(_ text: String) { write(text + "\n", to: 2) }

  /// The one line of an error.
  static func complain(_ text: String) { write("kcopyd: \(text)\n", to: 2) }

  /// Text as it is, for a progress display.
  static func draw(_ text: String) { write(text, to: 2) }

  /// Whether progress can be drawn.
  static var isTerminal: Bool { isatty(2) == 1 }

  /// The width of the terminal in columns.
  static var columns: Int {
    var size = winsize()
    guard ioctl(2, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return 80 }
    return Int(size.ws_col)
  }

  /// The engine's notices, as plain lines of the command.
  static var logger: Logger {
    var logger = Logger(label: "kcopyd") { _ in NoticeHandler() }
    logger.logLevel = .notice
    return logger
  }

  private static func write(_ text: String, to descriptor: Int32) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      // Closed, or full for good: what isn't read isn't needed.
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }
}

/// Prints what the engine logs as one line each.
private struct NoticeHandler: LogHandler {
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level = .notice

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) { Output.note("kcopyd: \(event.message)") }
}
