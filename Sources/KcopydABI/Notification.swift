import CKcopyd
import SystemPackage

/// The function that a C caller wants called, and what with.
//
// @unchecked Sendable: the function is code, and the context is an address that only the caller
// looks behind; he is told on which thread that happens.
struct Notification: @unchecked Sendable {
  private let function: kcopyd_notify_fn
  private let context: UnsafeMutableRawPointer?

  init(_ function: kcopyd_notify_fn?, _ context: UnsafeMutableRawPointer?) throws(Errno) {
    self.function = try require(function)
    self.context = context
  }

  /// Calls it. All ones stay all ones when the bits become fewer.
  func callAsFunction(readError: Bool, writeErrors: UInt64) {
    function(readError ? 1 : 0, CUnsignedInt(truncatingIfNeeded: writeErrors), context)
  }
}
