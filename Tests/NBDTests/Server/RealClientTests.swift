import BlockIO
import Foundation
import Testing

@testable import NBD

/// The server with the clients that people use. Those that aren't installed are skipped.
@Suite struct RealClientTests {
  private static func isInstalled(_ tool: String) -> Bool { path(tool) != nil }

  private static func path(_ tool: String) -> String? {
    ["/usr/bin", "/usr/local/bin", "/bin"].map { "\($0)/\(tool)" }
      .first { FileManager.default.isExecutableFile(atPath: $0) }
  }

  /// What a program said, and how it ended.
  private func run(_ tool: String, _ arguments: [String]) async throws -> (Int32, String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(Self.path(tool)))
    process.arguments = arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    return try await withCheckedThrowingContinuation { continuation in
      process.terminationHandler = { process in
        let said = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        continuation.resume(returning: (process.terminationStatus, said))
      }
      do { try process.run() } catch { continuation.resume(throwing: error) }
    }
  }

  private func random(_ sectors: Sector) -> MemoryDevice {
    let device = MemoryDevice(sectorCount: sectors)
    var generator = SystemRandomNumberGenerator()
    device.fill((0..<Int(sectors.bytes)).map { _ in UInt8.random(in: 0...255, using: &generator) })
    return device
  }

  @Test(.enabled(if: isInstalled("nbdinfo"), "nbdinfo is not installed (package libnbd-bin)"))
  func nbdinfo() async throws {
    try await TestServer.serving(["disk": random(2048), "other": random(8)]) { test in
      let uri = "nbd+unix:///disk?socket=\(test.socket)"
      let (status, text) = try await run("nbdinfo", [uri])
      #expect(status == 0)
      for line in [
        "export-size: 1048576", "protocol: newstyle-fixed without TLS, using structured packets",
        "is_read_only: false", "can_multi_conn: true", "can_fua: true", "base:allocation",
        "can_fast_zero: true", "block_size_maximum: 33554432",
      ] {
        #expect(text.contains(line), "\(line)\n\(text)")
      }
      let (_, list) = try await run("nbdinfo", ["--list", "nbd+unix:///?socket=\(test.socket)"])
      #expect(list.contains("export=\"disk\"") && list.contains("export=\"other\""), "\(list)")
      let (missing, why) = try await run("nbdinfo", ["nbd+unix:///none?socket=\(test.socket)"])
      #expect(missing != 0 && why.contains("none"), "\(why)")
    }
  }

  @Test(.enabled(if: isInstalled("nbdcopy"), "nbdcopy is not installed (package libnbd-bin)"))
  func nbdcopy() async throws {
    let source = random(4_000)
    let target = MemoryDevice(sectorCount: 4_000)
    try await TestServer.serving(["source": source, "target": target]) { test in
      let (status, text) = try await run(
        "nbdcopy",
        [
          "--flush", "nbd+unix:///source?socket=\(test.socket)",
          "nbd+unix:///target?socket=\(test.socket)",
        ])
      #expect(status == 0, "\(text)")
    }
    #expect(source.contents(0..<4_000) == target.contents(0..<4_000))
  }

  @Test(.enabled(if: isInstalled("qemu-img"), "qemu-img is not installed (package qemu-utils)"))
  func qemu() async throws {
    let source = random(4_000)
    let target = MemoryDevice(sectorCount: 4_000)
    try await TestServer.serving(["source": source, "target": target]) { test in
      let uri = { (name: String) in "nbd+unix:///\(name)?socket=\(test.socket)" }
      let (status, text) = try await run(
        "qemu-img",
        ["convert", "-n", "-f", "raw", "-O", "raw", uri("source"), uri("target")])
      #expect(status == 0, "\(text)")
      let (same, why) = try await run(
        "qemu-img", ["compare", "-f", "raw", "-F", "raw", uri("source"), uri("target")])
      #expect(same == 0, "\(why)")
      let (io, output) = try await run(
        "qemu-io",
        [
          "-f", "raw", "-c", "write -P 7 1000 70000", "-c", "read -P 7 1000 70000",
          "-c", "write -z 4096 8192", "-c", "read -P 0 4096 8192", "-c", "discard 64k 64k",
          "-c", "flush", uri("target"),
        ])
      #expect(io == 0 && !output.contains("failed"), "\(output)")
    }
  }
}
