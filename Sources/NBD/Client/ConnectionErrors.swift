import NIOCore
import NIOPosix
import NIOSSL
import SystemPackage

/// What went wrong with a connection, in words for people.
func describe(_ error: any Error) -> String {
  switch error {
  case let error as LineFailure: error.description
  case let error as IOError: Errno(rawValue: error.errnoCode).description
  case let error as NIOConnectionError:
    error.connectionErrors.last.map { describe($0.error) } ?? "there is no host '\(error.host)'"
  case ChannelError.connectTimeout: "no answer"
  case let error as NIOSSLExtraError where error == .failedToValidateHostname:
    "TLS: the server's certificate is for another name"
  case let error as NIOSSLExtraError: "TLS: \(error)"
  case let error as NIOSSLError: "TLS: \(error)"
  case let error as BoringSSLError: "TLS: \(error)"
  default: "\(error)"
  }
}
