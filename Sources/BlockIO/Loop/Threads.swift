import CBlockIO
import SystemPackage

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Starts a detached thread that runs `body`.
///
/// - Throws: `EAGAIN` where the system gives no more threads.
func startThread(
  named name: String, _ body: @escaping @Sendable () -> Void
) throws(Errno) {
  final class Start: Sendable {
    let name: String
    let body: @Sendable () -> Void
    init(_ name: String, _ body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }
  // The box is retained here and released by the thread: one owner at a time.
  let start = Unmanaged.passRetained(Start(name, body))
  #if canImport(Darwin)
    var thread: pthread_t?
  #else
    var thread = pthread_t()
  #endif
  let error = pthread_create(
    &thread, nil,
    { argument in
      #if canImport(Darwin)
        let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
      #else
        guard let argument else { return nil }
        let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
      #endif
      blockio_name_thread(start.name)
      start.body()
      return nil
    }, start.toOpaque())
  guard error == 0 else {
    start.release()
    throw Errno(rawValue: error)
  }
  #if canImport(Darwin)
    if let thread { pthread_detach(thread) }
  #else
    pthread_detach(thread)
  #endif
}
