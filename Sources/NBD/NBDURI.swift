/// Where an export is: `nbd://host:port/export`, `nbd+unix:///export?socket=path`, and with
/// `nbds` instead of `nbd` by TLS.
public struct NBDURI: Hashable, Sendable, CustomStringConvertible {
  /// Where the server listens.
  public enum Server: Hashable, Sendable {
    /// A name or address, and a port.
    case tcp(host: String, port: Int)
    /// A Unix socket.
    case unix(path: String)
  }

  /// Where the server listens.
  public var server: Server
  /// The name of the export; empty for the server's default.
  public var export: String
  /// Whether TLS is insisted on.
  public var isTLS: Bool
  /// `tls-certificates`: a folder with `ca-cert.pem`, and `client-cert.pem` with `client-key.pem`
  /// if the server wants them.
  public var certificates: String?
  /// `tls-hostname`: the name that the server's certificate must be for, if not that of the URI.
  public var tlsHostname: String?
  /// `tls-verify-peer`: whether the server's certificate is looked at.
  public var verifiesPeer = true
  /// As it was written.
  public let description: String

  /// The port that NBD has.
  public static let defaultPort = 10809

  /// Why something is no NBD URI, in words.
  public struct ParseError: Error, CustomStringConvertible {
    public let description: String

    init(_ text: String, _ reason: String) { description = "'\(text)': \(reason)" }
  }

  /// Whether a name is meant as an NBD URI.
  public static func isMeant(by text: String) -> Bool {
    guard let end = text.firstRange(of: "://") else { return false }
    let scheme = text[..<end.lowerBound].lowercased()
    return scheme == "nbd" || scheme == "nbds" || scheme.hasPrefix("nbd+")
      || scheme.hasPrefix("nbds+")
  }

  /// Reads a URI.
  public init(_ text: String) throws(ParseError) {
    func refuse(_ reason: String) -> ParseError { ParseError(text, reason) }
    description = text
    guard let schemeEnd = text.firstRange(of: "://") else {
      throw refuse("not a URI such as nbd://host/export")
    }
    let scheme = text[..<schemeEnd.lowerBound].lowercased()
    guard let (isTLS, isUnix) = Self.schemes[scheme] else {
      throw refuse(
        "'\(scheme)' is none of nbd, nbds, nbd+unix, nbds+unix")
    }
    self.isTLS = isTLS
    let rest = text[schemeEnd.upperBound...]
    guard !rest.contains("#") else { throw refuse("a '#' has no meaning here; write %23") }
    let pathStart = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
    let queryStart = rest[pathStart...].firstIndex(of: "?") ?? rest.endIndex
    guard let export = Self.decode(rest[pathStart..<queryStart].dropFirst()) else {
      throw refuse("the name of the export is wrongly encoded")
    }
    guard export.utf8.count <= WireLimits.name else {
      throw refuse("the name of the export is longer than \(WireLimits.name) bytes")
    }
    self.export = export
    let parameters = try Self.parameters(rest[queryStart...].dropFirst(), of: text)
    let authority = rest[..<pathStart]
    if isUnix {
      guard authority.isEmpty else {
        throw refuse("a Unix socket has no host: three slashes, and the path as ?socket=")
      }
      guard let socket = parameters["socket"], !socket.isEmpty else {
        throw refuse("the path of the socket is missing: ?socket=path")
      }
      server = .unix(path: socket)
    } else {
      if parameters["socket"] != nil {
        throw refuse("a socket needs \(isTLS ? "nbds" : "nbd")+unix instead of \(scheme)")
      }
      server = try Self.server(authority, of: text)
    }
    try takeTLS(parameters, of: text)
  }

  private static let schemes: [String: (isTLS: Bool, isUnix: Bool)] = [
    "nbd": (false, false), "nbds": (true, false), "nbd+unix": (false, true),
    "nbds+unix": (true, true),
  ]

  private mutating func takeTLS(
    _ parameters: [String: String], of text: String
  ) throws(ParseError) {
    certificates = parameters["tls-certificates"]
    tlsHostname = parameters["tls-hostname"]
    switch parameters["tls-verify-peer"]?.lowercased() {
    case nil, "true", "1", "yes", "on": break
    case "false", "0", "no", "off": verifiesPeer = false
    case .some(let other):
      throw ParseError(text, "tls-verify-peer is true or false, not '\(other)'")
    }
    let known: Set = ["socket", "tls-certificates", "tls-hostname", "tls-verify-peer"]
    if let other = parameters.keys.sorted().first(where: { !known.contains($0) }) {
      // What isn't understood may be what the user's safety depends on.
      throw ParseError(text, "the parameter '\(other)' isn't known")
    }
    if !isTLS, let name = parameters.keys.first(where: { $0.hasPrefix("tls-") }) {
      throw ParseError(text, "'\(name)' without TLS: use nbds")
    }
  }

  private static func parameters(
    _ query: Substring, of text: String
  ) throws(ParseError) -> [String: String] {
    var parameters: [String: String] = [:]
    for item in query.split(whereSeparator: { $0 == "&" || $0 == ";" }) {
      let name = item.prefix { $0 != "=" }
      guard let value = decode(item.dropFirst(name.count + 1)) else {
        throw ParseError(text, "'\(name)' is wrongly encoded")
      }
      guard parameters.updateValue(value, forKey: String(name)) == nil else {
        throw ParseError(text, "'\(name)' is given twice")
      }
    }
    return parameters
  }

  private static func server(_ authority: Substring, of text: String) throws(ParseError) -> Server {
    let place = authority.lastIndex(of: "@").map { authority[authority.index(after: $0)...] }
    let hostAndPort = place ?? authority
    var host = hostAndPort
    var port: Substring?
    if hostAndPort.hasPrefix("[") {
      guard let end = hostAndPort.firstIndex(of: "]") else {
        throw ParseError(text, "a ']' is missing behind the address")
      }
      host = hostAndPort[hostAndPort.index(after: hostAndPort.startIndex)..<end]
      let behind = hostAndPort[hostAndPort.index(after: end)...]
      guard behind.isEmpty || behind.hasPrefix(":") else {
        throw ParseError(text, "'\(behind)' behind the address")
      }
      port = behind.isEmpty ? nil : behind.dropFirst()
    } else if let colon = hostAndPort.firstIndex(of: ":") {
      host = hostAndPort[..<colon]
      port = hostAndPort[hostAndPort.index(after: colon)...]
    }
    guard let name = decode(host) else { throw ParseError(text, "the host is wrongly encoded") }
    let number = port.map { Int($0) } ?? defaultPort
    guard let number, (1...65535).contains(number) else {
      throw ParseError(text, "the port must be 1 to 65535")
    }
    return .tcp(host: name.isEmpty ? "localhost" : name, port: number)
  }

  /// Without percent signs; nil: wrongly encoded, or with a zero byte, which no name has.
  private static func decode(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = text.utf8
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard let high = rest.popFirst().flatMap(hexDigit),
        let low = rest.popFirst().flatMap(hexDigit)
      else { return nil }
      bytes.append(high << 4 | low)
    }
    if bytes.contains(0) { return nil }
    return String(validating: bytes, as: UTF8.self)
  }

  private static func hexDigit(_ byte: UInt8) -> UInt8? {
    Character(Unicode.Scalar(byte)).hexDigitValue.map { UInt8($0) }
  }
}
