import Configuration
import Foundation
import Logging
import NBD

/// A setting that the configuration file, the environment (`KCOPYD_NBD_LISTEN` …) and the options
/// of `kcopyd serve` know, each overruling the ones before.
struct Setting: Sendable {
  enum Kind: String, Sendable {
    case text = "a text"
    case list = "a list of texts"
    case number = "a number"
  }

  let path: [String]
  var kind = Kind.text

  static let all: [Setting] = [
    Setting(path: ["socket"]),
    Setting(path: ["state"]),
    Setting(path: ["log"]),
    Setting(path: ["metrics"]),
    Setting(path: ["nbd", "listen"], kind: .list),
    Setting(path: ["nbd", "unix"], kind: .list),
    Setting(path: ["nbd", "threads"], kind: .number),
    Setting(path: ["nbd", "poll"], kind: .number),
    Setting(path: ["nbd", "tls", "mode"]),
    Setting(path: ["nbd", "tls", "certificate"]),
    Setting(path: ["nbd", "tls", "key"]),
    Setting(path: ["nbd", "tls", "clients"]),
  ]
}

/// What `kcopyd serve` was told on the command line; nil and empty: nothing.
public struct ServeOptions: Sendable {
  /// The configuration file.
  public var configuration: String?
  /// The control socket.
  public var socket: String?
  /// The folder of the state.
  public var state: String?
  /// `HOST:PORT` at which NBD clients are served.
  public var listen: [String] = []
  /// Unix sockets at which they are.
  public var unix: [String] = []
  /// How many threads serve NBD clients.
  public var threads: String?
  /// For how many microseconds they look for a next request before they sleep.
  public var poll: String?
  /// `off`, `allow` or `require`.
  public var tlsMode: String?
  /// The server's certificates in PEM, its own first.
  public var tlsCertificate: String?
  /// Its private key in PEM.
  public var tlsKey: String?
  /// Certificates of the authorities whose clients may come; without it clients need none.
  public var tlsClients: String?
  /// `HOST:PORT` of the metrics.
  public var metrics: String?
  /// The least level that is logged.
  public var log: String?

  /// Nothing.
  public init() {}

  fileprivate var values: [AbsoluteConfigKey: ConfigValue] {
    var values: [AbsoluteConfigKey: ConfigValue] = [:]
    let texts: [([String], String?)] = [
      (["socket"], socket), (["state"], state), (["log"], log), (["metrics"], metrics),
      (["nbd", "threads"], threads), (["nbd", "poll"], poll),
      (["nbd", "tls", "mode"], tlsMode), (["nbd", "tls", "certificate"], tlsCertificate),
      (["nbd", "tls", "key"], tlsKey), (["nbd", "tls", "clients"], tlsClients),
    ]
    for case (let path, let text?) in texts {
      values[AbsoluteConfigKey(path)] = .init(.string(text), isSecret: false)
    }
    for (path, list) in [(["nbd", "listen"], listen), (["nbd", "unix"], unix)] where !list.isEmpty {
      values[AbsoluteConfigKey(path)] = .init(.stringArray(list), isSecret: false)
    }
    return values
  }
}

/// Everything the daemon is started with, checked.
struct Settings: Sendable {
  /// A place to listen at.
  struct Endpoint: Hashable, Sendable, CustomStringConvertible {
    var host: String
    var port: Int
    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
  }

  /// What is asked of NBD clients.
  struct TLS: Hashable, Sendable {
    var isRequired: Bool
    var certificate: String
    var key: String
    var clients: String?
  }

  var socket: String
  var state: String
  var logLevel: Logger.Level
  var metrics: Endpoint?
  var listen: [Endpoint]
  var unix: [String]
  var threads: Int
  var poll: Duration
  var tls: TLS?

  /// Options over environment over file over defaults.
  init(
    _ options: ServeOptions, _ file: ConfigurationFile, environment: [String: String]? = nil
  ) throws(ControlFailure) {
    let variables =
      environment.map { EnvironmentVariablesProvider(environmentVariables: $0) }
      ?? EnvironmentVariablesProvider()
    let reader = ConfigReader(providers: [
      InMemoryProvider(name: "options", values: options.values),
      KeyMappingProvider(upstream: variables) { $0.prepending(ConfigKey("kcopyd")) },
      InMemoryProvider(name: "file", values: file.settings),
    ])
    let places = Places(options, file, environment ?? ProcessInfo.processInfo.environment)
    socket = reader.string(forKey: "socket") ?? ControlSocketFile.standard
    state = reader.string(forKey: "state") ?? StateFolder.standard
    logLevel = try places.check(["log"]) { () throws(ControlFailure) in
      try Self.level(reader.string(forKey: "log") ?? "info")
    }
    metrics = try places.check(["metrics"]) { () throws(ControlFailure) in
      try reader.string(forKey: "metrics").map { text throws(ControlFailure) in
        try Endpoint(text, for: "metrics")
      }
    }
    listen = try places.check(["nbd", "listen"]) { () throws(ControlFailure) in
      var endpoints: [Endpoint] = []
      for text in reader.stringArray(forKey: "nbd.listen") ?? [] {
        endpoints.append(try Endpoint(text, for: "listen"))
      }
      return endpoints
    }
    unix = reader.stringArray(forKey: "nbd.unix") ?? []
    threads = try places.check(["nbd", "threads"]) { () throws(ControlFailure) in
      try Self.threads(reader.string(forKey: "nbd.threads"))
    }
    poll = try places.check(["nbd", "poll"]) { () throws(ControlFailure) in
      try Self.poll(reader.string(forKey: "nbd.poll"))
    }
    let tlsReader = reader.scoped(to: "nbd.tls")
    tls = try places.check(["nbd", "tls", "mode"]) { () throws(ControlFailure) in
      try Self.tls(
        mode: tlsReader.string(forKey: "mode"),
        certificate: tlsReader.string(forKey: "certificate"),
        key: tlsReader.string(forKey: "key"), clients: tlsReader.string(forKey: "clients"))
    }
  }

  /// Where settings come from that can't be.
  private struct Places {
    let options: [AbsoluteConfigKey: ConfigValue]
    let file: ConfigurationFile
    let environment: [String: String]

    init(_ options: ServeOptions, _ file: ConfigurationFile, _ environment: [String: String]) {
      self.options = options.values
      self.file = file
      self.environment = environment
    }

    /// Takes a setting; a refusal says where in the file it stands, or what variable it is.
    func check<R>(
      _ path: [String], _ body: () throws(ControlFailure) -> R
    ) throws(ControlFailure) -> R {
      do throws(ControlFailure) {
        return try body()
      } catch {
        let key = AbsoluteConfigKey(path)
        guard options[key] == nil else { throw error }
        let variable = (["kcopyd"] + path).joined(separator: "_").uppercased()
        let place = environment[variable] == nil ? file.places[key] : variable
        throw .refused((place.map { "\($0): " } ?? "") + error.message)
      }
    }
  }

  private static func level(_ text: String) throws(ControlFailure) -> Logger.Level {
    guard let level = Logger.Level(rawValue: text) else {
      let known = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
      throw .refused("log: '\(text)' is no level; known are \(known)")
    }
    return level
  }

  /// By default one for each processor, as long as more of them still help.
  private static func threads(_ text: String?) throws(ControlFailure) -> Int {
    guard let text else { return min(ProcessInfo.processInfo.activeProcessorCount, 4) }
    guard let count = Int(text), (1...64).contains(count) else {
      throw .refused("threads: '\(text)' is no number from 1 to 64")
    }
    return count
  }

  private static func poll(_ text: String?) throws(ControlFailure) -> Duration {
    guard let text else { return ServerLimits().poll }
    guard let microseconds = Int(text), (0...1000).contains(microseconds) else {
      throw .refused("poll: '\(text)' is no number of microseconds from 0 to 1000")
    }
    return .microseconds(microseconds)
  }

  private static func tls(
    mode: String?, certificate: String?, key: String?, clients: String?
  ) throws(ControlFailure) -> TLS? {
    let mode = mode ?? (certificate == nil ? "off" : "require")
    guard ["off", "allow", "require"].contains(mode) else {
      throw .refused("tls: '\(mode)' is neither off, allow nor require")
    }
    if mode == "off" {
      if certificate != nil || key != nil || clients != nil {
        throw .refused("tls: it is off, and a certificate, a key or authorities are given")
      }
      return nil
    }
    guard let certificate, let key else {
      throw .refused("tls: a certificate and its key are needed")
    }
    return TLS(
      isRequired: mode == "require", certificate: certificate, key: key, clients: clients)
  }
}

extension Settings.Endpoint {
  /// `HOST:PORT`, `[::1]:PORT`.
  init(_ text: String, for setting: String) throws(ControlFailure) {
    guard let colon = text.lastIndex(of: ":"), colon != text.startIndex,
      let port = UInt16(text[text.index(after: colon)...])
    else {
      throw .refused("\(setting): '\(text)' is not HOST:PORT, such as 127.0.0.1:10809")
    }
    var host = text[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      throw .refused("\(setting): '\(text)': put the address in brackets, such as [::1]:10809")
    }
    self.init(host: String(host), port: Int(port))
  }
}
