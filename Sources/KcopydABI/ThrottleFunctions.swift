import CKcopyd
import Kcopyd
import SystemPackage

/// Makes a throttle.
@c @implementation
public func kcopyd_throttle_create(
  _ percent: CUnsignedInt, _ result: UnsafeMutablePointer<OpaquePointer?>?
) -> CInt {
  status { () throws(Errno) in
    try require(result).pointee = OpaquePointer(retaining: Throttle(percent: Int(percent)))
  }
}

/// Changes a throttle's part of the time.
@c @implementation
public func kcopyd_throttle_set_percent(
  _ throttle: OpaquePointer?, _ percent: CUnsignedInt
) -> CInt {
  status { () throws(Errno) in
    try require(throttle).object(Throttle.self).percent = Int(percent)
  }
}

/// Changes a throttle's bytes per second.
@c @implementation
public func kcopyd_throttle_set_bytes_per_second(
  _ throttle: OpaquePointer?, _ bytes: UInt64
) -> CInt {
  status { () throws(Errno) in
    try require(throttle).object(Throttle.self).bytesPerSecond = bytes == 0 ? nil : bytes
  }
}

/// Gives a throttle up.
@c @implementation
public func kcopyd_throttle_destroy(_ throttle: OpaquePointer?) {
  _ = throttle?.release(Throttle.self)
}
