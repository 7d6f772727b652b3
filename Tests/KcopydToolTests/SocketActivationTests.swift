import Foundation
import Testing

/// Sockets that somebody else listens on, as systemd does: clients may connect before the daemon
/// is there.
@Suite(.enabled(if: program("python3") != nil, "python3 isn't installed"))
struct SocketActivationTests {
  /// Listens on a Unix socket for control and one for NBD, and becomes the
  /// daemon; the arguments: kcopyd, the folder.
  private static let launcher = """
    import os, socket, sys
    kcopyd, folder = sys.argv[1:]
    kept = []
    for number, name in enumerate(["control", "nbd"]):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/{name}")
        listener.listen()
        kept.append(listener)
    for number, listener in enumerate(kept):
        os.dup2(listener.fileno(), 13 + number)
    for number in range(2):
        os.dup2(13 + number, 3 + number)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="control:nbd")
    os.execv(kcopyd, [kcopyd, "serve", "--state", f"{folder}/state"])
    """

  @Test func `control and exports come over sockets that were handed over`() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(1 << 20))
    let daemon = try python(Self.launcher, Command.path, folder.path, in: folder)
    defer {
      kill(daemon.processIdentifier, SIGKILL)
      daemon.waitUntilExit()
    }
    let socket = folder.file("control")
    var look = 1 as Int32
    while look != 0, daemon.isRunning {
      guard FileManager.default.fileExists(atPath: socket) else { continue }
      look = try Command.run("dm", "ls", "--socket", socket, in: folder).status
    }
    #expect(daemon.isRunning)
    let attach = try Command.run(
      "dm", "attach", "image", folder.file("disk"), "--export", "--socket", socket, in: folder)
    #expect(attach.status == 0, "\(attach.errors)")
    let copy = try Command.run(
      "compare", folder.file("disk"), "nbd+unix:///image?socket=\(folder.file("nbd"))", in: folder)
    #expect(copy.status == 0, "\(copy.errors)")
    let exports = try Command.run("exports", "--socket", socket, in: folder)
    #expect(exports.output.contains("nbd+unix:///image?socket=\(folder.file("nbd"))"))
    daemon.terminate()
    daemon.waitUntilExit()
    #expect(daemon.terminationStatus == 0)
    // Whoever made them keeps them.
    #expect(FileManager.default.fileExists(atPath: folder.file("nbd")))
  }

  private func python(_ script: String, _ arguments: String..., in folder: Folder) throws -> Process
  {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(program("python3")))
    process.arguments = ["-c", script] + arguments
    process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    return process
  }
}
