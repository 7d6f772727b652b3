import Kcopyd
import SystemPackage

/// What a C function returns: 0, or the negative errno that `body` throws.
func status(_ body: () throws(Errno) -> Void) -> CInt {
  do throws(Errno) {
    try body()
    return 0
  } catch {
    return -error.rawValue
  }
}

/// The argument, which C callers may leave out although they must not.
func require<T>(_ argument: T?) throws(Errno) -> T {
  guard let argument else { throw .invalidArgument }
  return argument
}

extension KcopydError {
  /// The number that stands for this error in C.
  var errno: Errno {
    switch self {
    case .noDestinations, .tooManyDestinations, .unequalCounts, .unaddressable,
      .destinationsOverlap, .sourceOverlapsBothWays, .sourceLiesOnDestination,
      .sequentialWritesOverlap, .reserveBelowSubJob:
      .invalidArgument
    case .noMemory: .noMemory
    case .destroyed: .socketShutdown  // ESHUTDOWN, whose text is "cannot send after shutdown"
    }
  }
}

/// Runs `body`, its errors as errnos.
func withErrno<R>(_ body: () throws(KcopydError) -> R) throws(Errno) -> R {
  do throws(KcopydError) {
    return try body()
  } catch {
    throw error.errno
  }
}
