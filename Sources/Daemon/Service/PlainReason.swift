import Foundation
import NIOCore
import SystemPackage

extension Error {
  /// Why something failed, as the operating system says it: without the call of a library.
  package var plainReason: String {
    if let failure = self as? IOError { return Errno(rawValue: failure.errnoCode).description }
    let bridged = self as NSError
    let underlying = bridged.userInfo[NSUnderlyingErrorKey] as? NSError
    for error in [underlying, bridged] {
      if let error, error.domain == NSPOSIXErrorDomain, let code = Int32(exactly: error.code) {
        return Errno(rawValue: code).description
      }
    }
    return "\(self)"
  }
}
