import Foundation
import NIOCore
import NIOPosix
import SystemPackage

/// The user the process runs as.
var currentUser: UInt32 { geteuid() }

/// Where the control socket and the state lie by default, and the socket's file.
public enum ControlSocketFile {
  /// `/run/kcopyd/control.sock` for root, otherwise in the user's own folder of such things.
  public static var standard: String {
    if currentUser == 0 { return "/run/kcopyd/control.sock" }
    let folder =
      ProcessInfo.processInfo.environment["XDG_RUNTIME_DIR"]
      ?? "/tmp/kcopyd-\(currentUser)"
    return "\(folder)/kcopyd/control.sock"
  }

  /// Makes the folder, if there is none, and takes away a socket that nobody listens at.
  static func prepare(_ path: String) throws(ControlFailure) {
    let folder = FilePath(path).removingLastComponent().string
    if !folder.isEmpty { try PrivateFolder.make(folder) }
    if try UnixSocket.isThere(path, for: "--socket") { unlink(path) }
  }

  /// Only the owner may open it; its folder keeps others out until then.
  static func restrict(_ path: String) throws(ControlFailure) {
    guard chmod(path, 0o600) == 0 else {
      throw .refused("--socket: '\(path)': \(Errno(rawValue: errno))")
    }
  }
}

/// Unix sockets as files.
enum UnixSocket {
  /// Whether there is one; anything else in its place is refused.
  static func isThere(_ path: String, for option: String) throws(ControlFailure) -> Bool {
    guard path.utf8.count < 108 else {
      throw .refused("\(option): '\(path)' is too long for a socket: at most 107 bytes")
    }
    var info = stat()
    guard lstat(path, &info) == 0 else { return false }
    guard info.st_mode & S_IFMT == S_IFSOCK else {
      throw .refused("\(option): '\(path)' is there and is no socket")
    }
    return true
  }

  /// Whether somebody listens at it: it mustn't be taken away from him then.
  static func isListenedAt(_ path: String, _ group: any EventLoopGroup) async -> Bool {
    do {
      let other = try await ClientBootstrap(group: group)
        .connect(unixDomainSocketPath: path).get()
      other.close(promise: nil)
      return true
    } catch let error as IOError {
      // Anything else – no right, no more room for clients – says nothing of the kind.
      return ![ECONNREFUSED, ENOENT, ENOTSOCK].contains(error.errnoCode)
    } catch {
      return true
    }
  }
}

/// Folders that only their owner can enter.
enum PrivateFolder {
  /// Makes it, with what is above it; refuses one that others may enter.
  static func make(_ path: String) throws(ControlFailure) {
    do {
      if !FileManager.default.fileExists(atPath: path) {
        try FileManager.default.createDirectory(
          atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
      }
    } catch {
      throw .refused("'\(path)' can't be made: \(error.plainReason)")
    }
    var info = stat()
    guard stat(path, &info) == 0 else { throw .refused("'\(path)': \(Errno(rawValue: errno))") }
    guard info.st_mode & S_IFMT == S_IFDIR else { throw .refused("'\(path)' is no folder") }
    guard info.st_uid == currentUser else {
      throw .refused("'\(path)' belongs to another user; use a folder of your own")
    }
    guard info.st_mode & 0o077 == 0 else {
      throw .refused("others may enter '\(path)'; chmod 700 it, or use another folder")
    }
  }
}
