import Foundation
import Testing

/// Certificates that openssl makes, in a folder as libnbd, nbdkit and qemu like them.
enum Certificates {
  static let canBeMade = FileManager.default.isExecutableFile(atPath: "/usr/bin/openssl")

  /// Runs `body` with a folder of certificates for 'localhost', and removes it.
  static func made(_ body: (String) async throws -> Void) async throws {
    let folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kcopyd-tls-\(UInt32.random(in: 0 ... .max))").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-x509"]
    try make(
      key + ["-keyout", "\(folder)/ca-key.pem", "-out", "\(folder)/ca-cert.pem", "-subj", "/CN=ca"])
    for name in ["server", "client"] {
      try make(
        key + [
          "-CA", "\(folder)/ca-cert.pem", "-CAkey", "\(folder)/ca-key.pem", "-keyout",
          "\(folder)/\(name)-key.pem", "-out", "\(folder)/\(name)-cert.pem", "-subj",
          "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext",
          "basicConstraints=critical,CA:FALSE",
        ])
    }
    try await body(folder)
  }

  /// As ``made(_:)`` if they are wanted.
  static func madeIf(_ isWanted: Bool, _ body: (String) async throws -> Void) async throws {
    if isWanted { try await made(body) } else { try await body("") }
  }

  private static func make(_ arguments: [String]) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
    process.arguments = ["req"] + arguments
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    try #require(process.terminationStatus == 0, "openssl req \(arguments)")
  }
}
