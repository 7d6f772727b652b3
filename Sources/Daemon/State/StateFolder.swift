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
  private let syncFolder: @Sendable (FileDescriptor) throws(Errno) -> Void

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
  ///
  /// - Parameter syncFolder: makes its entries durable; tests have it fail.
  init(
    _ path: String,
    syncFolder: @escaping @Sendable (FileDescriptor) throws(Errno) -> Void = StateFolder.sync
  ) throws(ControlFailure) {
    try PrivateFolder.make(path)
    self.path = path
    self.syncFolder = syncFolder
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
      // What is begun with is what the next start finds, too.
      try syncFolder(folder)
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
  ///
  /// - Parameter before: what was saved last, which is put back when it can't be made durable that
  ///   it was replaced.
  func save(_ state: DaemonState, replacing before: DaemonState) throws(SaveFailure) {
    do throws(Errno) {
      if try replace(state) { return }
    } catch {
      throw SaveFailure(
        failure: .failed("the state can't be saved in '\(path)': \(error)"), isInDoubt: false)
    }
    // A restart might find the one or the other.
    let isBack = (try? replace(before)) ?? false
    throw SaveFailure(
      failure: .failed(
        isBack
          ? "the state can't be saved in '\(path)': its folder couldn't be flushed"
          : "the state in '\(path)' can neither be saved nor put back: its folder can't be flushed; "
            + "what has been changed is undone, but a daemon that is started now might find it "
            + "done"),
      isInDoubt: !isBack)
  }

  /// Why a state isn't saved.
  struct SaveFailure: Error {
    var failure: ControlFailure
    /// Whether a restart might find it all the same.
    var isInDoubt: Bool
  }

  /// Puts a state in the place of what was saved.
  ///
  /// - Returns: whether it is durable; false: it is there, but nobody knows for how long.
  private func replace(_ state: DaemonState) throws(Errno) -> Bool {
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
        try Self.sync(file)
      }
      guard rename(next, "\(path)/\(Self.file)") == 0 else { throw Errno(rawValue: errno) }
    } catch {
      throw (error as? Errno) ?? .ioError
    }
    return (try? syncFolder(folder)) != nil
  }

  static func sync(_ file: FileDescriptor) throws(Errno) {
    guard fsync(file.rawValue) == 0 else { throw Errno(rawValue: errno) }
  }

  // MARK: Files of mirrors

  /// Where the log and the sidecar of a device's mirror are to be made.
  func newMirrorFiles(for device: String) -> (log: String, sidecar: String) {
    let files = "\(path)/\(device)-\(UUID().uuidString.prefix(8))"
    return (files + ".log", files + ".sidecar")
  }

  /// Takes away such files that no table names: a verb that was cut short has left them.
  func removeUnusedMirrorFiles(by state: DaemonState) {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
    for name in names {
      guard name.wholeMatch(of: /.*-[0-9A-F]{8}\.(log|sidecar)/) != nil else { continue }
      if !state.mentions(fileNamed: name) { unlink("\(path)/\(name)") }
    }
  }
}
