import BlockIO
import CKcopyd
import Kcopyd
import SystemPackage

/// Creates a client.
@c @implementation
public func kcopyd_client_create(
  _ num_pages: CUnsignedInt, _ result: UnsafeMutablePointer<OpaquePointer?>?
) -> CInt {
  createClient(pages: num_pages, throttle: nil, result)
}

/// Creates a client that is slowed.
@c @implementation
public func kcopyd_client_create_throttled(
  _ num_pages: CUnsignedInt, _ throttle: OpaquePointer?,
  _ result: UnsafeMutablePointer<OpaquePointer?>?
) -> CInt {
  createClient(pages: num_pages, throttle: throttle?.object(Throttle.self), result)
}

private func createClient(
  pages: CUnsignedInt, throttle: Throttle?, _ result: UnsafeMutablePointer<OpaquePointer?>?
) -> CInt {
  status { () throws(Errno) in
    let result = try require(result)
    guard pages > 0 else { throw .invalidArgument }
    let reserve = Sector(holding: UInt64(pages) * UInt64(PagePool.pageSize))
    let loop = try SharedLoop.get()
    let client = try withErrno { () throws(KcopydError) in
      try KcopydClient(
        pages: Int(pages), subJob: min(KcopydClient.defaultSubJob, reserve), throttle: throttle,
        on: loop)
    }
    result.pointee = OpaquePointer(retaining: client)
  }
}

/// Waits until a client has nothing to do, and frees it.
@c @implementation
public func kcopyd_client_destroy(_ kc: OpaquePointer?) {
  guard let client = kc?.object(KcopydClient.self) else { return }
  do throws(Errno) {
    try SharedLoop.wait { await client.destroy() }
  } catch {
    // There is no result to say it with, and going on as if it had been destroyed would free what
    // is in use. fatalError, unlike preconditionFailure, says why in release builds too.
    fatalError("kcopyd_client_destroy was called from a notification: \(error)")
  }
  _ = kc?.release(KcopydClient.self)
}

/// Waits for the notifications that are due.
@c @implementation
public func kcopyd_client_flush(_ kc: OpaquePointer?) -> CInt {
  status { () throws(Errno) in
    let client = try require(kc).object(KcopydClient.self)
    try SharedLoop.wait { await client.flush() }
  }
}
