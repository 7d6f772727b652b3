import NIOCore
import NIOSSL

/// Whom a client trusts and what it shows of itself.
struct ClientTLS {
  private let context: NIOSSLContext
  private let serverName: String?

  /// nil: no TLS is asked for.
  init?(_ uri: NBDURI, _ options: NBDClientOptions) throws(LineFailure) {
    guard uri.isTLS else { return nil }
    var configuration = TLSConfiguration.makeClientConfiguration()
    let folder = uri.certificates
    if let file = options.certificateAuthority ?? folder.map({ "\($0)/ca-cert.pem" }) {
      configuration.trustRoots = .file(file)
    }
    if !uri.verifiesPeer { configuration.certificateVerification = .none }
    let own = (
      options.certificate ?? folder.map { "\($0)/client-cert.pem" },
      options.key ?? folder.map { "\($0)/client-key.pem" }
    )
    do {
      // A folder without a certificate of the client is that of one who needs none.
      if let certificate = own.0, let key = own.1,
        options.certificate != nil || Self.exists(certificate)
      {
        configuration.certificateChain = try NIOSSLCertificate.fromPEMFile(certificate)
          .map { .certificate($0) }
        configuration.privateKey = .privateKey(try NIOSSLPrivateKey(file: key, format: .pem))
      }
      context = try NIOSSLContext(configuration: configuration)
    } catch {
      throw LineFailure("the certificates can't be used: \(error)", isFinal: true)
    }
    serverName = options.serverName ?? uri.tlsHostname ?? Self.name(of: uri.server)
  }

  /// What encrypts a connection; to be put before everything else on it.
  func handler() throws -> NIOSSLClientHandler {
    try NIOSSLClientHandler(context: context, serverHostname: serverName)
  }

  /// An address is no name: the certificate is then checked against the peer's address.
  private static func name(of server: NBDURI.Server) -> String? {
    switch server {
    case .unix: "localhost"
    case .tcp(let host, _):
      (try? SocketAddress(ipAddress: host, port: 0)) == nil ? host : nil
    }
  }

  private static func exists(_ path: String) -> Bool {
    (try? NIOSSLCertificate.fromPEMFile(path))?.isEmpty == false
  }
}
