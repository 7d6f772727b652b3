import ArgumentParser
import BlockIO
import Daemon

struct ServeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Run the daemon: devices by name, exported over NBD, changed while in use.",
    discussion: """
      Runs until SIGTERM or SIGINT; then exports are drained and devices suspended. Devices and \
      exports are kept in the state folder and come back at the next start, also after a kill. A \
      configuration file (JSON) may hold the settings below and devices and exports that are made \
      if they aren't there yet:

      {"nbd": {"listen": ["127.0.0.1:10809"], "unix": [], "threads": 2, "poll": 50, "tls": \
      {"mode": "require", "certificate": "…", "key": "…"}}, "socket": "…", "state": "…", "metrics": "127.0.0.1:9090", \
      "log": "info", "devices": {"disk": "0 2048 linear /srv/disk.img 0"}, \
      "exports": {"disk": "disk"}}

      The environment overrules the file (KCOPYD_NBD_LISTEN, KCOPYD_METRICS, …), options overrule \
      both. For one file by name: kcopyd serve, then kcopyd dm attach NAME FILE --export.
      """)

  @Option(help: "The configuration file.")
  var config: String?

  @Option(help: "The control socket. (default: /run/kcopyd/control.sock, or that of your user)")
  var socket: String?

  @Option(help: "The folder of the state. (default: /var/lib/kcopyd, or that of your user)")
  var state: String?

  @Option(help: "Serve NBD clients at HOST:PORT, such as 127.0.0.1:10809. Repeatable.")
  var listen: [String] = []

  @Option(help: "Serve NBD clients at this Unix socket. Repeatable.")
  var unix: [String] = []

  @Option(help: "How many threads serve NBD clients. (default: one per processor, at most 4)")
  var threads: String?

  @Option(
    help: """
      For how many microseconds they look for the next request of a client that asks one thing \
      at a time, before they sleep. (default: 50)
      """)
  var poll: String?

  @Option(
    name: .customLong("tls"),
    help: "off, allow or require. (default: require, if there is a certificate)")
  var tlsMode: String?

  @Option(help: "The server's certificate in PEM, with those of its authorities.")
  var tlsCertificate: String?

  @Option(help: "Its private key in PEM.")
  var tlsKey: String?

  @Option(help: "Authorities in PEM: only clients with a certificate of theirs may come.")
  var tlsClients: String?

  @Option(help: "Serve metrics in Prometheus' format at HOST:PORT.")
  var metrics: String?

  @Option(help: "Least level to log: trace, debug, info, notice, warning, error, critical.")
  var log: String?

  func run() async throws {
    var options = ServeOptions()
    options.configuration = config.map(absolutePath)
    options.socket = socket.map(absolutePath)
    options.state = state.map(absolutePath)
    options.listen = listen
    options.unix = unix.map(absolutePath)
    options.threads = threads
    options.poll = poll
    options.tlsMode = tlsMode
    options.tlsCertificate = tlsCertificate.map(absolutePath)
    options.tlsKey = tlsKey.map(absolutePath)
    options.tlsClients = tlsClients.map(absolutePath)
    options.metrics = metrics
    options.log = log
    do throws(ControlFailure) {
      try await DaemonService.run(options)
    } catch {
      Output.complain(error.message)
      throw Ended(status: error.kind == .refused ? 2 : 1)
    }
  }
}
