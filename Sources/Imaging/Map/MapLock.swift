import Foundation

/// Keeps a second run away from a map. Held while this lives; the system ends it with the process,
/// whatever ends that.
public final class MapLock: Sendable {
  private let path: String
  private let descriptor: Int32

  /// Locks the map `name` in `folder`, by a hidden file beside it: the map itself is replaced by
  /// every save.
  ///
  /// - Throws: when another run has it, or the file can't be made.
  public init(_ name: String, in folder: String) throws(MapRefusal) {
    path = "\(folder)/.\(name).lock"
    while true {
      let file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
      guard file >= 0 else {
        throw MapRefusal("cannot write beside the map '\(name)': \(Self.reason)")
      }
      guard flock(file, LOCK_EX | LOCK_NB) == 0 else {
        let isHeld = errno == EWOULDBLOCK
        let reason = Self.reason
        close(file)
        throw MapRefusal(
          isHeld
            ? "the map '\(name)' is in use by another kcopyd"
            : "cannot lock the map '\(name)': \(reason)")
      }
      // Whoever had it before may have removed it between the two calls: then it locks nothing.
      var own = stat()
      var named = stat()
      if fstat(file, &own) == 0, stat(path, &named) == 0, own.st_ino == named.st_ino {
        descriptor = file
        return
      }
      close(file)
    }
  }

  private static var reason: String { String(cString: strerror(errno)) }

  deinit {
    unlink(path)
    close(descriptor)
  }
}
