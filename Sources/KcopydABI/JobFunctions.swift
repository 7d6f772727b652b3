import BlockIO
import CKcopyd
import Kcopyd
import SystemPackage

/// Starts a copy.
@c @implementation
public func kcopyd_copy(
  _ kc: OpaquePointer?, _ from: UnsafeMutablePointer<io_region>?, _ num_dests: CUnsignedInt,
  _ dests: UnsafeMutablePointer<io_region>?, _ flags: CUnsignedInt, _ fn: kcopyd_notify_fn?,
  _ context: UnsafeMutableRawPointer?
) -> CInt {
  status { () throws(Errno) in
    let client = try require(kc).object(KcopydClient.self)
    let source = try region(try require(from).pointee)
    let destinations = try regions(dests, num_dests)
    let options = try copyOptions(flags)
    let notification = try Notification(fn, context)
    try start([source] + destinations, notification) { (notify) throws(KcopydError) in
      try client.copy(from: source, to: destinations, options: options, notify: notify)
    }
  }
}

/// Starts zeroing.
@c @implementation
public func kcopyd_zero(
  _ kc: OpaquePointer?, _ num_dests: CUnsignedInt, _ dests: UnsafeMutablePointer<io_region>?,
  _ flags: CUnsignedInt, _ fn: kcopyd_notify_fn?, _ context: UnsafeMutableRawPointer?
) -> CInt {
  status { () throws(Errno) in
    let client = try require(kc).object(KcopydClient.self)
    let destinations = try regions(dests, num_dests)
    let options = try copyOptions(flags)
    let notification = try Notification(fn, context)
    try start(destinations, notification) { (notify) throws(KcopydError) in
      try client.zero(destinations, options: options, notify: notify)
    }
  }
}

/// Starts a job; its devices stay open until just before it is notified.
private func start(
  _ regions: [IORegion], _ notification: Notification,
  _ job: (@escaping @Sendable (CopyResult) -> Void) throws(KcopydError) -> CopyHandle
) throws(Errno) {
  let devices = regions.compactMap { $0.device as? OpenDevice }
  for device in devices { device.beginJob() }
  do throws(KcopydError) {
    _ = try job { result in
      for device in devices { device.endJob() }
      notification(readError: result.readError, writeErrors: result.writeErrors)
    }
  } catch {
    for device in devices { device.endJob() }
    throw error.errno
  }
}

private func region(_ region: io_region) throws(Errno) -> IORegion {
  let device = try require(region.bdev).object(OpenDevice.self)
  return IORegion(device, sector: Sector(region.sector), count: Sector(region.count))
}

private func regions(
  _ regions: UnsafeMutablePointer<io_region>?, _ count: CUnsignedInt
) throws(Errno) -> [IORegion] {
  // Looked at before the array is: a caller who is wrong here is wrong about its length.
  guard count <= KCOPYD_MAX_DESTS else { throw .invalidArgument }
  // The caller's word for the length of his array; it isn't touched after the call.
  let array = UnsafeBufferPointer(start: try require(regions), count: Int(count))
  return try array.map(region)
}

private func copyOptions(_ flags: CUnsignedInt) throws(Errno) -> CopyOptions {
  // The same bits; the engine has further ones that aren't for C.
  let options = CopyOptions(rawValue: flags)
  let known: CopyOptions = [.ignoreErrors, .sequentialWrites]
  guard known.isSuperset(of: options) else { throw .invalidArgument }
  return options
}

/// Prepares a notification that is to come later.
@c @implementation
public func kcopyd_prepare_callback(
  _ kc: OpaquePointer?, _ fn: kcopyd_notify_fn?, _ context: UnsafeMutableRawPointer?
) -> OpaquePointer? {
  guard let client = kc?.object(KcopydClient.self),
    let notification = try? Notification(fn, context),
    let callback = try? client.prepareCallback({ readError, writeErrors in
      notification(readError: readError, writeErrors: writeErrors)
    })
  else { return nil }
  return OpaquePointer(retaining: callback)
}

/// Fires a prepared notification.
@c @implementation
public func kcopyd_do_callback(
  _ callback: OpaquePointer?, _ read_err: CInt, _ write_err: CUnsignedInt
) {
  callback?.release(PreparedCallback.self)
    .fire(readError: read_err != 0, writeErrors: UInt64(write_err))
}
