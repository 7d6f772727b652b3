import BlockIO
import CBlockIO
import Foundation
import SystemPackage

/// The folder with the daemon's state: locked as long as it lives, its file replaced as a whole.
///
/// What ``save(_:)`` has returned for is durable; a crash at any point leaves the old file or the
/// new one. It makes blocking calls.
final class StateFolder: Sendable {
  let path: String
  /// Held open for its lock.
  private let lock: FileDescriptor
  private let folder: FileDescriptor

  private static let file = "state.json"
  private static let nextFile = "state.json.new"
  /// More is no state of ours.
  private static let maximumBytes = 64 << 20

  /// `/var/lib/kcopyd` for root, otherwise in the user's own folder of such things.
  static var standard: String {
    if currentUser == 0 { return "/var/lib/kcopyd" }
    let environment = ProcessInfo.processInfo.environment
    let base =
      environment["XDG_STATE_HOME"]
      ?? environment["HOME"].map { "\($0)/.local/state" } ?? "/tmp/kcopyd-\(currentUser)"
    return "\(base)/kcopyd"
  }

  /// Makes the folder, if there is none, and takes its lock.
  init(_ path: String) throws(ControlFailure) {
    try PrivateFolder.make(path)
    self.path = path
    do {
      folder = try FileDescriptor.open(path, .readOnly, options: [.directory, .closeOnExec])
      lock = try FileDescriptor.open(
        "\(path)/lock", .readWrite, options: [.create, .closeOnExec],
        permissions: [.ownerReadWrite])
    } catch {
      throw .refused("--state: '\(path)': \(error)")
    }
    let result = blockio_lock(lock.rawValue, true)
    guard result == 0 else {
      if -result == Errno.wouldBlock.rawValue {
        throw .refused("--state: another daemon runs on '\(path)'")
      }
      throw .refused("--state: '\(path)/lock': \(Errno(rawValue: -result))")
    }
  }

  deinit {
    try? lock.close()
    try? folder.close()
  }

  /// What was saved last; nil: nothing yet.
  func load() throws(ControlFailure) -> DaemonState? {
    let name = "\(path)/\(Self.file)"
    let data: Data
    do {
      let file = try FileDescriptor.open(name, .readOnly, options: [.closeOnExec, .noFollow])
      defer { try? file.close() }
      guard try file.seek(offset: 0, from: .end) <= Self.maximumBytes else {
        throw ControlFailure.refused("'\(name)' is too large for a state")
      }
      data = try Data(contentsOf: URL(fileURLWithPath: name))
    } catch let errno as Errno where errno == .noSuchFileOrDirectory {
      return nil
    } catch {
      throw .refused("'\(name)' can't be read: \(error)")
    }
    do {
      let state = try JSONDecoder().decode(DaemonState.self, from: data)
      guard state.version == DaemonState.currentVersion else {
        throw ControlFailure.refused(
          "'\(name)' is of version \(state.version); this program knows "
            + "\(DaemonState.currentVersion)")
      }
      return state
    } catch let failure as ControlFailure {
      throw failure
    } catch let error as DecodingError {
      throw .refused("'\(name)' is damaged: \(error.inWords); nothing has been started")
    } catch {
      throw .refused("'\(name)' is damaged: \(error); nothing has been started")
    }
  }

  /// Replaces what was saved; durable when it returns.
  func save(_ state: DaemonState) throws(ControlFailure) {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let next = "\(path)/\(Self.nextFile)"
    do {
      let data = try encoder.encode(state)
      let file = try FileDescriptor.open(
        next, .writeOnly, options: [.create, .truncate, .closeOnExec, .noFollow],
        permissions: [.ownerReadWrite])
      try file.closeAfter {
        try file.writeAll(data)
        try sync(file)
      }
      guard rename(next, "\(path)/\(Self.file)") == 0 else { throw Errno(rawValue: errno) }
      try sync(folder)
    } catch {
      throw .failed("the state can't be saved in '\(path)': \(error)")
    }
  }

  private func sync(_ file: FileDescriptor) throws(Errno) {
    guard fsync(file.rawValue) == 0 else { throw Errno(rawValue: errno) }
  }
}
