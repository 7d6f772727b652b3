import ArgumentParser
import Daemon
import Foundation
import NBD

/// Where the daemon is, for every command that asks it something.
struct DaemonOptions: ParsableArguments {
  @Option(help: "The daemon's control socket. (default: KCOPYD_SOCKET, or that of your user)")
  var socket: String?

  /// Sends a request; a refusal is status 2, a failure status 1.
  func send(
    _ request: ControlRequest,
    progress: @escaping @Sendable (UInt64, UInt64, String) -> Void = { _, _, _ in }
  ) async throws -> ControlAnswer {
    let path =
      socket ?? ProcessInfo.processInfo.environment["KCOPYD_SOCKET"] ?? ControlSocketFile.standard
    do throws(ControlFailure) {
      return try await ControlClient.send(request, to: path, progress: progress)
    } catch {
      Output.complain(error.message)
      throw Ended(status: error.kind == .refused ? 2 : 1)
    }
  }

  /// Sends a request and shows how far it is.
  func follow(_ request: ControlRequest, quiet: Bool) async throws -> ControlAnswer {
    let isDrawn = Output.isTerminal && !quiet
    let answer = try await send(request) { done, total, text in
      guard isDrawn else { return }
      let part = total == 0 ? "" : " \(done * 100 / max(total, 1)) %"
      Output.draw("\r\u{1B}[K\(text)\(part)")
    }
    if isDrawn { Output.draw("\r\u{1B}[K") }
    return answer
  }
}

/// A file's path as the daemon must be given it, which has a folder of its own; the URI of an export
/// as it is.
func absolutePath(_ path: String) -> String {
  path.hasPrefix("/") || NBDURI.isMeant(by: path)
    ? path
    : URL(fileURLWithPath: path).standardizedFileURL.path
}

extension ControlAnswer {
  /// What is said in words, if anything.
  var text: String? {
    if case .text(let text) = self { text } else { nil }
  }
}
