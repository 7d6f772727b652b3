import Foundation
import NBD
import Testing

@testable import Daemon

/// Whether a URI leads back to this daemon.
struct OwnListenersTests {
  @Test(arguments: [
    ("127.0.0.1", "127.0.0.1", true), ("127.0.0.1", "localhost", true),
    ("localhost", "127.0.0.1", true), ("localhost", "localhost", true),
    ("127.0.0.1", "::ffff:127.0.0.1", true), ("127.0.0.1", "127.0.0.2", false),
    ("127.0.0.1", "192.0.2.1", false), ("127.0.0.1", "0.0.0.0", true),
    ("0.0.0.0", "127.0.0.1", true), ("0.0.0.0", "127.0.0.9", true), ("::", "localhost", true),
    ("::", "::1", true), ("0.0.0.0", "192.0.2.1", false), ("::1", "::1", true),
    ("127.0.0.1", "no.such.host.invalid", false),
  ])
  func namesOfTheSamePlaceAreKnown(listening: String, goal: String, isOwn: Bool) {
    let own = OwnListeners([.tcp(host: listening, port: 10809)])
    #expect(own.serve(.tcp(host: goal, port: 10809)) == isOwn)
    #expect(!own.serve(.tcp(host: goal, port: 10810)))
    #expect(!own.serve(.unix(path: goal)))
  }

  @Test func whatIsListenedAtLaterCounts() {
    let own = OwnListeners([])
    #expect(!own.serve(.tcp(host: "localhost", port: 5)))
    own.add([.tcp(host: "127.0.0.1", port: 5)])
    #expect(own.serve(.tcp(host: "localhost", port: 5)))
  }

  @Test func aSocketUnderAnotherNameIsTheSame() throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("socket", byteCount: 1)
    try folder.makeFile("other", byteCount: 1)
    try FileManager.default.createSymbolicLink(
      atPath: folder.file("link"), withDestinationPath: "socket")
    let own = OwnListeners([.unix(path: folder.file("socket"))])
    #expect(own.serve(.unix(path: folder.file("link"))))
    #expect(own.serve(.unix(path: folder.file("socket"))))
    #expect(!own.serve(.unix(path: folder.file("other"))))
    #expect(!own.serve(.unix(path: folder.file("nothing"))))
  }
}
