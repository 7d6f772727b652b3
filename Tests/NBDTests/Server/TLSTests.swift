import BlockIO
import Foundation
import NIOCore
import Testing

@testable import NBD

/// TLS, with certificates that openssl makes and a client that isn't ours.
@Suite struct TLSTests {
  private static let hasTools = ["openssl", "nbdinfo"].allSatisfy {
    FileManager.default.isExecutableFile(atPath: "/usr/bin/\($0)")
  }

  @Test(.enabled(if: hasTools, "openssl or nbdinfo is not installed"))
  func required() async throws {
    try await Certificates.made { folder in
      let tls = try ServerTLS(
        mode: .require, certificate: "\(folder)/server-cert.pem", key: "\(folder)/server-key.pem")
      try await TestServer.serving(tls: tls, ["disk": MemoryDevice(sectorCount: 64)]) { test in
        let port = try await port(of: test)
        let (plain, _) = try run("nbdinfo", "nbd://localhost:\(port)/disk")
        #expect(plain != 0)
        let (status, text) = try run(
          "nbdinfo", "nbds://localhost:\(port)/disk?tls-certificates=\(folder)")
        #expect(status == 0 && text.contains("with TLS"), "\(text)")
        try await RawClient.connected(to: test.socket) { client in
          _ = await client.hear(18)
          try await client.say { buffer in
            buffer.writeInteger(UInt32(3))
            OptionHeader(.list, length: 0).write(to: &buffer)
          }
          #expect(try #require(await client.optionReply()).1 == .tlsRequired)
        }
      }
    }
  }

  @Test(.enabled(if: hasTools, "openssl or nbdinfo is not installed"))
  func clientsAreVerified() async throws {
    try await Certificates.made { folder in
      let tls = try ServerTLS(
        mode: .on, certificate: "\(folder)/server-cert.pem", key: "\(folder)/server-key.pem",
        clientAuthority: "\(folder)/ca-cert.pem")
      try await TestServer.serving(tls: tls, ["disk": MemoryDevice(sectorCount: 64)]) { test in
        let port = try await port(of: test)
        let uri = "nbds://localhost:\(port)/disk?tls-certificates=\(folder)"
        #expect(try run("nbdinfo", uri).0 == 0)
        for name in ["client-cert.pem", "client-key.pem"] {
          try FileManager.default.removeItem(atPath: "\(folder)/\(name)")
        }
        #expect(try run("nbdinfo", uri).0 != 0)
        // Not required, so that others come as they are.
        #expect(try run("nbdinfo", "nbd://localhost:\(port)/disk").0 == 0)
      }
    }
  }

  /// What someone in between puts behind the change to TLS must not be taken for the client's.
  @Test(.enabled(if: hasTools, "openssl or nbdinfo is not installed"))
  func nothingInPlainIsTakenAlong() async throws {
    try await Certificates.made { folder in
      let tls = try ServerTLS(
        mode: .on, certificate: "\(folder)/server-cert.pem", key: "\(folder)/server-key.pem")
      try await TestServer.serving(tls: tls, ["disk": MemoryDevice(sectorCount: 64)]) { test in
        try await RawClient.connected(to: test.socket) { client in
          _ = await client.hear(18)
          try await client.say { buffer in
            buffer.writeInteger(UInt32(3))
            OptionHeader(.startTLS, length: 0).write(to: &buffer)
            OptionHeader(.list, length: 0).write(to: &buffer)
          }
          #expect(await client.hearsTheEnd())
        }
      }
    }
  }

  private func port(of test: TestServer) async throws -> Int {
    guard
      case .tcp(_, let port) = try await test.server.listen(on: .tcp(host: "localhost", port: 0))
    else { throw ServerError("not over TCP") }
    return port
  }

  private func run(_ tool: String, _ arguments: String...) throws -> (Int32, String) {
    try run(tool, arguments)
  }

  private func run(_ tool: String, _ arguments: [String]) throws -> (Int32, String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/\(tool)")
    process.arguments = arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return (process.terminationStatus, text)
  }
}
