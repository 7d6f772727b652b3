import Foundation
import NIOCore
import Testing

@testable import NBD

/// A server of another project, on a Unix socket in a temporary folder.
final class OtherServer {
  let folder: URL
  private let arguments: [String]
  private var process: Process?

  var socket: String { folder.appendingPathComponent("s").path }
  func uri(_ export: String = "", tls: String = "") throws -> NBDURI {
    try NBDURI("nbd+unix:///\(export)?socket=\(socket)\(tls)")
  }

  static func isInstalled(_ program: String) -> Bool {
    find(program) != nil
  }

  static func find(_ program: String) -> String? {
    ["/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/opt/homebrew/bin/"].map { $0 + program }
      .first { FileManager.default.isExecutableFile(atPath: $0) }
  }

  /// `arguments`: the program and what it is told besides the socket; `@` stands for the folder.
  convenience init(_ arguments: String...) throws { try self.init(arguments) }

  init(_ arguments: [String]) throws {
    folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kcopyd-nbd-\(UUID().uuidString.prefix(8))")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let path = folder.path
    self.arguments = arguments.map { $0.replacingOccurrences(of: "@", with: path) }
  }

  func write(_ name: String, _ data: Data) throws {
    try data.write(to: folder.appendingPathComponent(name))
  }

  func read(_ name: String) throws -> Data {
    try Data(contentsOf: folder.appendingPathComponent(name))
  }

  /// Starts it and waits until it listens.
  func start() throws {
    let process = Process()
    process.executableURL = URL(
      fileURLWithPath: try #require(Self.find(arguments[0]), "not installed"))
    try? FileManager.default.removeItem(atPath: socket)
    let place = arguments[0] == "nbdkit" ? ["-f", "-U", socket] : ["-k", socket, "-t"]
    process.arguments = place + arguments.dropFirst()
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    self.process = process
    let address = try SocketAddress(unixDomainSocketPath: socket)
    for _ in 0..<1000 where !listens(address) {
      try #require(process.isRunning, "the server ended at once")
      usleep(5000)
    }
  }

  /// Takes it down without a chance to tidy up.
  func kill() {
    guard let process else { return }
    Foundation.kill(process.processIdentifier, SIGKILL)
    process.waitUntilExit()
    self.process = nil
  }

  deinit {
    kill()
    try? FileManager.default.removeItem(at: folder)
  }
}

/// Whether anybody listens: the socket is there a little before.
private func listens(_ address: SocketAddress) -> Bool {
  let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
  defer { close(descriptor) }
  return address.withSockAddr { connect(descriptor, $0, socklen_t($1)) } == 0
}
