import BlockIO
import CKcopyd
import SystemPackage

/// Opens a file or block special; see `kcopyd.h`, as for all functions here.
@c @implementation
public func kcopyd_block_device_open(
  _ path: UnsafePointer<CChar>?, _ flags: CUnsignedInt,
  _ result: UnsafeMutablePointer<OpaquePointer?>?
) -> CInt {
  status { () throws(Errno) in
    let result = try require(result)
    let options = try openOptions(flags)
    guard let path = String(validatingCString: try require(path)) else {
      throw .illegalByteSequence
    }
    let loop = try SharedLoop.get()
    let file: FileDevice
    do throws(IOFailure) {
      file = try FileDevice.open(path, options, on: loop)
    } catch {
      throw error.errno
    }
    result.pointee = OpaquePointer(retaining: OpenDevice(file))
  }
}

private func openOptions(_ flags: CUnsignedInt) throws(Errno) -> FileDevice.Options {
  let known = KCOPYD_OPEN_WRITE | KCOPYD_OPEN_DIRECT | KCOPYD_OPEN_SHARED
  guard flags & ~known == 0 else { throw .invalidArgument }
  return FileDevice.Options(
    isWritable: flags & KCOPYD_OPEN_WRITE != 0,
    direct: flags & KCOPYD_OPEN_DIRECT != 0 ? .on : .auto,
    isExclusive: flags & KCOPYD_OPEN_SHARED == 0)
}

/// Closes a device.
@c @implementation
public func kcopyd_block_device_close(_ bdev: OpaquePointer?) {
  bdev?.release(OpenDevice.self).close()
}

/// The size of a device.
@c @implementation
public func kcopyd_block_device_sectors(_ bdev: OpaquePointer?) -> sector_t {
  bdev?.object(OpenDevice.self).sectorCount.rawValue ?? 0
}

/// Makes what was written durable.
@c @implementation
public func kcopyd_block_device_flush(_ bdev: OpaquePointer?) -> CInt {
  status { () throws(Errno) in
    let device = try require(bdev).object(OpenDevice.self)
    // Like a job: the file stays open meanwhile.
    device.beginJob()
    defer { device.endJob() }
    let errno: Errno? = try SharedLoop.wait {
      do throws(IOFailure) {
        try await device.flush()
        return nil
      } catch {
        return error.errno
      }
    }
    if let errno { throw errno }
  }
}
