import NIOSSL

/// The bounds within which a server serves, so that no client harms another one.
public struct ServerLimits: Hashable, Sendable {
  /// The largest read or write, in bytes; a multiple of 64 KiB up to 32 MiB.
  public var request = 32 << 20
  /// Requests of one connection that are under way at once; more aren't read from it.
  public var requestsPerConnection = 128
  /// Bytes of requests of one connection that are under way at once, one request excepted.
  public var bytesPerConnection = 64 << 20
  /// Bytes of requests that are under way at once, of all connections; one that has nothing under
  /// way may always have its share, ``bytes`` by ``connections``, besides.
  public var bytes = 256 << 20
  /// Connections; further ones are closed at once.
  public var connections = 256
  /// How long a client may take to choose an export.
  public var handshake = Duration.seconds(15)
  /// How long a client may take over the data of a request it has begun, and over accepting
  /// anything of what it is sent.
  public var stall = Duration.seconds(60)
  /// How long a thread with one connection looks for its next request before it sleeps, if the last
  /// one came as soon; zero: never.
  public var poll = Duration.microseconds(50)
  /// How long requests under way are waited for when a connection, an export or the server goes.
  public var drain = Duration.seconds(30)

  /// The defaults.
  public init() {}

  /// What every connection may have under way, whatever others do.
  var share: Int { max(64 << 10, bytes / max(1, connections)) }
}

/// How clients and server know each other.
public struct ServerTLS: Sendable {
  /// Whether clients have to use it.
  public enum Mode: String, Hashable, Sendable, CaseIterable {
    /// Who asks for it gets it.
    case on
    /// Nothing is told to who doesn't.
    case require
  }

  /// Whether clients have to.
  public var mode: Mode
  let context: NIOSSLContext

  /// TLS by a certificate.
  ///
  /// - Parameters:
  ///   - certificate: a file with the server's certificate, and those between it and the root.
  ///   - key: a file with its private key.
  ///   - clientAuthority: a file with the certificates that clients' certificates must come from;
  ///     nil: clients need none.
  /// - Throws: what NIOSSL finds wrong with the files.
  public init(
    mode: Mode, certificate: String, key: String, clientAuthority: String? = nil
  ) throws {
    self.mode = mode
    var configuration = TLSConfiguration.makeServerConfiguration(
      certificateChain: try NIOSSLCertificate.fromPEMFile(certificate).map { .certificate($0) },
      privateKey: .privateKey(try NIOSSLPrivateKey(file: key, format: .pem)))
    configuration.minimumTLSVersion = .tlsv12
    if let clientAuthority {
      configuration.trustRoots = .file(clientAuthority)
      // Of a client the certificate counts, not where it calls from.
      configuration.certificateVerification = .noHostnameVerification
    }
    context = try NIOSSLContext(configuration: configuration)
  }
}
