/// How an export is used.
public struct NBDClientOptions: Sendable {
  /// How many connections at most; more than one only where the server says that it is safe.
  public var connections = 4
  /// Whether the export will be written: a read-only one is refused.
  public var isWritable = true
  /// How long it may take until a connection stands and the export is in use.
  public var handshakeTimeout: Duration = .seconds(20)
  /// How long a connection may be silent while requests are under way on it.
  public var requestTimeout: Duration = .seconds(60)
  /// How long requests wait for a server that can't be reached any more, until they fail.
  public var reconnectLimit: Duration = .seconds(30)
  /// The certificates that the server's is checked against, a PEM file; otherwise those of the
  /// URI, or the system's.
  public var certificateAuthority: String?
  /// The own certificate, if the server wants one, a PEM file.
  public var certificate: String?
  /// The key of the own certificate, a PEM file.
  public var key: String?
  /// The name that the server's certificate must be for; otherwise that of the URI.
  public var serverName: String?

  /// The usual ones.
  public init() {}
}
