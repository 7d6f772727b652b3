import Dispatch
import FoundationEssentials
import Glibc
import Synchronization

/// A fresh folder for a benchmark's files, removed with everything in it.
struct TemporaryFolder {
  let path: String

  init(in parent: String) throws(BenchmarkError) {
    path = "\(parent)/kcopyd-bench.\(getpid()).\(UInt32.random(in: 0 ... .max))"
    // Known before it exists: a signal in between must find it.
    Self.live.withLock { _ = $0.insert(path) }
    guard mkdir(path, 0o700) == 0 else {
      let error = errno
      Self.live.withLock { _ = $0.remove(path) }
      throw .system(operation: "mkdir", path: path, errno: error)
    }
  }

  func path(_ name: String) -> String { "\(path)/\(name)" }

  func remove() {
    Self.live.withLock {
      Self.delete(path)
      $0.remove(path)
    }
  }

  private static let live = Mutex<Set<String>>([])

  /// Nothing can be done about a file that will not go; the folder's name says whose it was.
  private static func delete(_ path: String) {
    // Under another name first: whoever is about to create a file in it no longer can.
    let doomed = "\(path).removed"
    guard rename(path, doomed) == 0 else { return }
    try? FileManager.default.removeItem(atPath: doomed)
  }

  /// Removes every folder that is still there.
  static func removeAll() {
    live.withLock { paths in
      for path in paths { delete(path) }
      paths = []
    }
  }

  /// From now on SIGINT and SIGTERM clean up before they end the program.
  ///
  /// Processes that are being measured end with it; they ask the kernel for that at their start.
  static func removeAllOnSignals() -> [any DispatchSourceSignal] {
    [SIGINT, SIGTERM].map { number in
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler {
        // The lock is never given back: the measuring thread, its files gone, must neither make
        // new folders nor end the program before all is removed.
        live.withLock { paths in
          for path in paths { delete(path) }
          exit(128 + number)
        }
      }
      source.resume()
      return source
    }
  }
}
