import BlockIO
import DeviceMapper
import Logging
import NBD
import NIOPosix
import ServiceLifecycle
import SystemPackage
import UnixSignals

/// `kcopyd serve`: everything checked, then devices, then exports, then the control socket; and the
/// other way round at the end.
public enum DaemonService {
  /// Runs until SIGTERM or SIGINT.
  ///
  /// - Throws: when something can't be started; nothing has been then.
  public static func run(_ options: ServeOptions) async throws(ControlFailure) {
    var file = ConfigurationFile()
    if let path = options.configuration { file = try ConfigurationFile(path: path) }
    let settings = try Settings(options, file)
    let logger = makeLogger(settings.logLevel)
    let folder = try StateFolder(settings.state)
    let state = try initialState(try folder.load(), file, logger)
    ProcessMemory.keepFreed()
    let network = try await startLoops(settings.threads, logger)
    let own = OwnListeners(settings.addresses)
    let keeper = try await startKeeper(state, settings, folder, own, on: network, logger)
    do throws(ControlFailure) {
      try await serve(keeper, settings, own, isSaved: state.isSaved, logger)
    } catch {
      Systemd.notify("STOPPING=1")
      await keeper.shutDown()
      throw error
    }
    Systemd.notify("STOPPING=1")
    await keeper.shutDown()
    logger.info("stopped: all devices are suspended, and their logs up to date")
  }

  /// Serves until SIGTERM or SIGINT. What is new is saved when nothing can be refused any more.
  private static func serve(
    _ keeper: DeviceKeeper, _ settings: Settings, _ own: OwnListeners, isSaved: Bool,
    _ logger: Logger
  ) async throws(ControlFailure) {
    let inherited = Systemd.inheritedSockets()
    let group = MultiThreadedEventLoopGroup.singleton
    let control = try await ControlServer(
      path: settings.socket,
      inherited: inherited.first { $0.name == "control" }?.descriptor, group: group, logger: logger)
    var services: [any Service] = [
      ControlService(server: control, keeper: keeper, logger: logger)
    ]
    if let endpoint = settings.metrics {
      let server = try await MetricsServer(endpoint, group: group, logger: logger)
      services.append(MetricsService(server: server, keeper: keeper))
    }
    try await keeper.exports.listen(settings.addresses)
    try await keeper.exports.listen(
      onInherited: inherited.filter { $0.name == "nbd" }.map(\.descriptor))
    own.add(await keeper.exports.addresses)
    if !isSaved { try await keeper.write(keeper.state) }
    await keeper.takeUp()
    logger.info(
      "serving",
      metadata: ["socket": "\(settings.socket)", "state": "\(settings.state)"])
    Systemd.notify("READY=1")
    let services2 = services
    do {
      try await ServiceGroup(
        configuration: .init(
          services: services2.map { .init(service: $0) },
          gracefulShutdownSignals: [.sigterm, .sigint], logger: logger)
      ).run()
    } catch {
      throw .failed("the daemon ended: \(error)")
    }
  }

  /// The keeper with all its devices. What is new by the configuration file must come up, or
  /// nothing does; what was there before may be missing.
  private static func startKeeper(
    _ initial: Initial, _ settings: Settings, _ folder: StateFolder, _ own: OwnListeners,
    on network: NetworkLoop, _ logger: Logger
  ) async throws(ControlFailure) -> DeviceKeeper {
    let loop = network.ioLoop
    let mapper = DeviceMapper(.wholePaths(on: network, notAt: own), on: loop)
    let server: NBDServer
    var limits = ServerLimits()
    limits.poll = settings.poll
    do {
      server = try NBDServer(
        on: network, limits: limits, tls: try settings.tls?.loaded, logger: logger)
    } catch let failure as ControlFailure {
      throw failure
    } catch {
      throw .refused("tls: the certificate or its key can't be used: \(error)")
    }
    let keeper = DeviceKeeper(
      mapper: mapper, exports: ExportKeeper(mapper, server, logger: logger), folder: folder,
      state: DaemonState(), on: loop, logger: logger)
    try await keeper.begin(with: initial.state, isNew: initial.isNew)
    return keeper
  }

  private static func makeLogger(_ level: Logger.Level) -> Logger {
    var logger = Logger(label: "kcopyd") { StreamLogHandler.standardError(label: $0) }
    logger.logLevel = level
    return logger
  }

  private static func startLoops(
    _ count: Int, _ logger: Logger
  ) async throws(ControlFailure) -> NetworkLoop {
    do throws(IOFailure) {
      return try await NetworkLoop.start(helpers: count - 1, logger: logger)
    } catch {
      throw .failed("\(error)")
    }
  }

  /// What the daemon begins with.
  private struct Initial {
    var state: DaemonState
    /// Devices that are new, and where they stand in the configuration file.
    var isNew: [String: String] = [:]
    var isSaved: Bool
  }

  /// The saved state, with what the configuration file has beyond it. A device that is there
  /// already stays as it is: it may have been moved or snapshotted since.
  private static func initialState(
    _ saved: DaemonState?, _ file: ConfigurationFile, _ logger: Logger
  ) throws(ControlFailure) -> Initial {
    var state = saved ?? DaemonState()
    var new: [String: String] = [:]
    for device in file.devices {
      if let known = state[device: device.record.name] {
        if known.table != device.record.table {
          logger.notice(
            "the saved table of a device differs from the configuration file's, and counts",
            metadata: ["device": "\(known.name)"])
        }
        continue
      }
      state.devices.append(device.record)
      new[device.record.name] = device.place
    }
    for export in file.exports
    where !state.exports.contains(where: { $0.export == export.record.export }) {
      guard state[device: export.record.device] != nil else {
        throw .refused("\(export.place): there is no device '\(export.record.device)'")
      }
      state.exports.append(export.record)
    }
    return Initial(state: state, isNew: new, isSaved: saved == state)
  }
}

extension Settings {
  /// Where NBD clients are served.
  fileprivate var addresses: [ListenAddress] {
    listen.map { .tcp(host: $0.host, port: $0.port) } + unix.map { .unix(path: $0) }
  }
}

extension Settings.TLS {
  /// With its files read.
  fileprivate var loaded: ServerTLS {
    get throws {
      let files = [("certificate", certificate), ("key", key), ("clients", clients)]
      for case (let what, let path?) in files {
        do {
          try FileDescriptor.open(path, .readOnly).close()
        } catch {
          throw ControlFailure.refused("tls: \(what) '\(path)' can't be read: \(error)")
        }
      }
      return try ServerTLS(
        mode: isRequired ? .require : .on, certificate: certificate, key: key,
        clientAuthority: clients)
    }
  }
}

extension DeviceOpener {
  /// Files by their whole paths, and exports of others by their URIs: the daemon's own folder is nobody's business.
  ///
  /// - Parameter own: where this daemon serves: a device over its own export would wait for itself.
  fileprivate static func wholePaths(
    on network: NetworkLoop, notAt own: OwnListeners
  ) -> DeviceOpener {
    let eventLoop = network.eventLoop
    let files = DeviceOpener.files(on: network.ioLoop) {
      (word, isWritable) async throws(IOFailure) in
      var options = NBDClientOptions()
      options.isWritable = isWritable
      let uri: NBDURI
      do {
        uri = try NBDURI(word)
      } catch {
        throw IOFailure(.open, word, errno: .invalidArgument, detail: "\(error)")
      }
      guard await !network.ioLoop.blocking({ own.serve(uri.server) }) else {
        throw IOFailure(
          .open, word, errno: .tooManySymbolicLinkLevels,
          detail: "this daemon serves it itself; name the device")
      }
      return try await NBDDevice.open(uri, options, on: eventLoop)
    }
    let isWhole = { @Sendable (word: String) in word.hasPrefix("/") || word.contains(":") }
    return DeviceOpener(
      identity: { isWhole($0) ? files.identity($0) : nil }, number: files.number,
      open: { (word, isWritable) async throws(IOFailure) in
        guard isWhole(word) else {
          throw IOFailure(.open, word, errno: .noSuchFileOrDirectory)
        }
        return try await files.open(word, isWritable)
      })
  }
}

/// The control socket as a service.
private struct ControlService: Service {
  let server: ControlServer
  let keeper: DeviceKeeper
  let logger: Logger

  func run() async throws {
    let handler = RequestHandler(keeper: keeper)
    await cancelWhenGracefulShutdown { try? await server.run(handler) }
  }
}

/// The metrics as a service.
private struct MetricsService: Service {
  let server: MetricsServer
  let keeper: DeviceKeeper

  func run() async throws {
    let collector = MetricsCollector(keeper: keeper)
    await cancelWhenGracefulShutdown {
      try? await server.run { await collector.page() }
    }
  }
}
