import CBlockIO
import Foundation

/// What systemd hands over and is told, by its two small protocols: sockets from descriptor 3 on
/// (`LISTEN_FDS`), and datagrams to `NOTIFY_SOCKET`. Without systemd all of it does nothing.
enum Systemd {
  /// The sockets handed over, by their names (`FileDescriptorName=`).
  static func inheritedSockets(
    _ environment: [String: String] = ProcessInfo.processInfo.environment
  ) -> [(name: String, descriptor: Int32)] {
    guard environment["LISTEN_PID"] == "\(getpid())",
      let count = environment["LISTEN_FDS"].flatMap({ Int32($0) }), 1...64 ~= count
    else { return [] }
    let names =
      environment["LISTEN_FDNAMES"]?
      .split(separator: ":", omittingEmptySubsequences: false).map(String.init) ?? []
    return (0..<count).map { index in
      (names.count > Int(index) ? names[Int(index)] : "", 3 + index)
    }
  }

  /// Tells how it is: `READY=1`, `STOPPING=1`, `STATUS=…`.
  static func notify(_ state: String) {
    guard let path = ProcessInfo.processInfo.environment["NOTIFY_SOCKET"], !path.isEmpty else {
      return
    }
    // Nobody who could hear of it is left when that fails.
    _ = blockio_send_datagram(path, state)
  }
}
