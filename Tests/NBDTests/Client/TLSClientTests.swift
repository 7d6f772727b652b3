import BlockIO
import BlockIOTesting
import Foundation
import SystemPackage
import Testing

@testable import NBD

/// The client by TLS, with servers of other projects.
@Suite struct TLSClientTests {
  /// What makes a server insist on TLS, with the certificates of `@/tls`.
  private static let servers = [
    ServerKind(arguments: ["nbdkit", "--tls=require", "--tls-certificates=@/tls", "file", "@/disk"]
    ),
    ServerKind(arguments: [
      "qemu-nbd", "--object", "tls-creds-x509,id=tls,endpoint=server,verify-peer=no,dir=@/tls",
      "--tls-creds", "tls", "-f", "raw", "--shared=8", "@/disk",
    ]),
  ]

  private func serving(
    _ kind: ServerKind, _ body: (OtherServer, String) async throws -> Void
  ) async throws {
    guard OtherServer.isInstalled(kind.arguments[0]) else {
      return print("skipped: \(kind.arguments[0]) is not installed")
    }
    try await Certificates.made { folder in
      let server = try OtherServer(kind.arguments)
      try FileManager.default.copyItem(atPath: folder, toPath: server.folder.path + "/tls")
      try server.write("disk", Data(repeating: 5, count: 1 << 18))
      try server.start()
      try await body(server, folder)
    }
  }

  private func uri(_ server: OtherServer, _ rest: String) throws -> NBDURI {
    try NBDURI("nbds+unix:///?socket=\(server.socket)\(rest)")
  }

  @Test(
    .enabled(if: Certificates.canBeMade, "openssl is not installed"), arguments: servers
  ) func `random requests by TLS`(kind: ServerKind) async throws {
    try await serving(kind) { server, folder in
      let device = try await NBDDevice.open(uri(server, "&tls-certificates=\(folder)"))
      #expect(device.features.contains("TLS"))
      var model = [UInt8](repeating: 5, count: 1 << 18)
      var random = SeededRandom(seed: 11)
      try await exercise(device, &model, &random, count: 40)
      try await device.flush()
      #expect(try server.read("disk") == Data(model))
    }
  }

  @Test(
    .enabled(if: Certificates.canBeMade, "openssl is not installed"), arguments: servers
  ) func `whom it can't trust it doesn't use`(kind: ServerKind) async throws {
    try await serving(kind) { server, folder in
      let plain = await failure { _ = try await NBDDevice.open(server.uri()) }
      #expect(plain?.reason.contains("requires TLS") == true, "\(String(describing: plain))")
      let unknown = await failure { _ = try await NBDDevice.open(uri(server, "")) }
      #expect(unknown?.reason.contains("TLS") == true, "\(String(describing: unknown))")
      let named = await failure {
        _ = try await NBDDevice.open(
          uri(server, "&tls-certificates=\(folder)&tls-hostname=other"))
      }
      #expect(
        named?.reason.contains("certificate is for another name") == true,
        "\(String(describing: named))")
      try await Certificates.made { others in
        let other = await failure {
          _ = try await NBDDevice.open(uri(server, "&tls-certificates=\(others)"))
        }
        #expect(other?.reason.contains("TLS") == true, "\(String(describing: other))")
      }
      let blind = try await NBDDevice.open(uri(server, "&tls-verify-peer=false"))
      #expect(try await blind.bytes(0..<1) == [UInt8](repeating: 5, count: 512))
    }
  }
}

/// The client with the server of this project.
@Suite struct OwnServerTests {
  @Test(arguments: [false, true]) func `random requests`(isTLS: Bool) async throws {
    guard !isTLS || Certificates.canBeMade else { return print("skipped: no openssl") }
    try await Certificates.madeIf(isTLS) { folder in
      let tls =
        isTLS
        ? try ServerTLS(
          mode: .require, certificate: "\(folder)/server-cert.pem",
          key: "\(folder)/server-key.pem", clientAuthority: "\(folder)/ca-cert.pem") : nil
      // The end is no whole sector for none, but no whole MiB either.
      let memory = numberedDisk(1001)
      var model = memory.contents(0..<1001)
      try await TestServer.serving(tls: tls, ["disk": memory]) { test in
        let scheme = isTLS ? "nbds+unix" : "nbd+unix"
        let device = try await NBDDevice.open(
          NBDURI(
            "\(scheme):///disk?socket=\(test.socket)"
              + (isTLS ? "&tls-certificates=\(folder)" : "")))
        for feature in ["structured replies", "block status", "several connections", "FUA"] {
          #expect(device.features.contains(feature))
        }
        var random = SeededRandom(seed: 21)
        try await exercise(device, &model, &random, count: 120)
        try await device.flush()
      }
      #expect(memory.contents(0..<1001) == model)
    }
  }

  @Test func `what the server refuses is said in its words`() async throws {
    try await TestServer.serving(["disk": numberedDisk(64)], isReadOnly: true) { test in
      let readOnly = await failure {
        _ = try await NBDDevice.open(NBDURI("nbd+unix:///disk?socket=\(test.socket)"))
      }
      #expect(readOnly?.errno == .readOnlyFileSystem)
      let unknown = await failure {
        _ = try await NBDDevice.open(NBDURI("nbd+unix:///none?socket=\(test.socket)"))
      }
      #expect(unknown?.reason.contains("no export 'none'") == true)
    }
  }

  /// The server goes while requests are under way: these are answered, later ones fail.
  @Test func `a server that shuts down`() async throws {
    let held = HeldDevice(sectorCount: 64)
    var options = NBDClientOptions()
    options.reconnectLimit = .milliseconds(200)
    try await TestServer.serving(["disk": held]) { test in
      let device = try await NBDDevice.open(
        NBDURI("nbd+unix:///disk?socket=\(test.socket)"), options)
      async let write: Void = device.put([UInt8](repeating: 9, count: 512), at: 3)
      await held.waitForWrite()
      async let end: Void = test.server.shutDown()
      held.releaseAll()
      try await write
      await end
      let late = await failure { try await device.put([UInt8](repeating: 9, count: 512), at: 4) }
      #expect(late != nil)
    }
    #expect(held.memory.contents(3..<4).allSatisfy { $0 == 9 })
  }
}
