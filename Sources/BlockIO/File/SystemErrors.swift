import SystemPackage

/// Calls what throws nothing but an `Errno` without having it in its type, as swift-system does.
func withErrno<R: ~Copyable>(_ body: () throws -> R) throws(Errno) -> R {
  do {
    return try body()
  } catch let error as Errno {
    throw error
  } catch {
    preconditionFailure("swift-system threw something else than an errno: \(error)")
  }
}
