import Foundation
import NBD
import NIOCore
import Synchronization

/// Where this daemon serves NBD: a device over its own export would wait for itself.
final class OwnListeners: Sendable {
  private let addresses: Mutex<[ListenAddress]>

  /// - Parameter addresses: those that are known before any is listened at.
  init(_ addresses: [ListenAddress]) { self.addresses = Mutex(addresses) }

  /// Listens there, too: at a port that was free, or on a socket that was handed over.
  func add(_ more: [ListenAddress]) { addresses.withLock { $0 += more } }

  /// Whether the server of a URI is one of them, under whatever name. It looks names up: not on the
  /// loop.
  func serve(_ server: NBDURI.Server) -> Bool {
    let own = addresses.withLock { $0 }
    switch server {
    case .unix(let path):
      return own.contains { if case .unix(let other) = $0 { isSame(path, other) } else { false } }
    case .tcp(let host, let port):
      let listening = own.compactMap { address -> String? in
        if case .tcp(let other, port) = address { other } else { nil }
      }
      guard !listening.isEmpty else { return false }
      let goal = Host(host)
      return listening.contains { $0 == host || Host($0).isReached(by: goal) }
    }
  }

  private func isSame(_ path: String, _ other: String) -> Bool {
    if path == other { return true }
    var (one, two) = (stat(), stat())
    return stat(path, &one) == 0 && stat(other, &two) == 0
      && one.st_dev == two.st_dev && one.st_ino == two.st_ino
  }
}

/// What a host stands for.
private struct Host {
  /// An IP address in the usual text; nil: it can't be found.
  let address: String?
  /// Whether it was given as a name: that may stand for several addresses.
  let isName: Bool

  /// Looks the name up.
  init(_ text: String) {
    let literal = try? SocketAddress(ipAddress: text, port: 0)
    isName = literal == nil
    let found = literal ?? (try? SocketAddress.makeAddressResolvingHost(text, port: 0))
    // IPv4 within IPv6 is the same place.
    address = found?.ipAddress.map { $0.hasPrefix("::ffff:") ? String($0.dropFirst(7)) : $0 }
  }

  private var isAny: Bool { address == "0.0.0.0" || address == "::" }
  private var isLoopback: Bool { address?.hasPrefix("127.") == true || address == "::1" }

  /// Whether whoever connects to `other` reaches what listens here.
  func isReached(by other: Host) -> Bool {
    guard let address, let goal = other.address else { return false }
    if address == goal || (other.isAny && isLoopback) { return true }
    if isAny { return other.isLoopback || other.isAny || Self.ofThisMachine.contains(goal) }
    return isLoopback && other.isLoopback && (isName || other.isName)
  }

  private static var ofThisMachine: [String] {
    ((try? System.enumerateDevices()) ?? []).compactMap { $0.address?.ipAddress }
  }
}
