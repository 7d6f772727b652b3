import Logging
import Testing

@testable import Daemon

/// The configuration file: what is taken, and that everything else is refused with its place.
struct ConfigurationTests {
  @Test func aFileIsTaken() throws {
    let file = try ConfigurationFile(
      """
      {
        "nbd": {"listen": ["127.0.0.1:10809", "[::1]:1"], "unix": []},
        "metrics": "127.0.0.1:9090", "log": "debug",
        "devices": {
          "disk": "0 8 linear /a 0",
          "two": {"table": ["0 8 zero", "8 8 error"], "uuid": "u", "readOnly": true}
        },
        "exports": {"disk": "disk", "ro": {"device": "two", "readOnly": true}}
      }
      """, name: "f")
    #expect(file.devices.map(\.record.name) == ["disk", "two"])
    #expect(file.devices[1].record.table == "0 8 zero\n8 8 error")
    #expect(file.devices[1].record.isReadOnly)
    #expect(file.exports.map(\.record.export) == ["disk", "ro"])
    let settings = try Settings(ServeOptions(), file, environment: [:])
    #expect(settings.listen.map(\.description) == ["127.0.0.1:10809", "[::1]:1"])
    #expect(settings.metrics?.port == 9090)
    #expect(settings.logLevel == .debug)
  }

  @Test func optionsOverruleTheEnvironmentAndThatTheFile() throws {
    let file = try ConfigurationFile(
      #"{"socket": "/file", "state": "/file", "log": "trace"}"#, name: "f")
    var options = ServeOptions()
    options.socket = "/option"
    let settings = try Settings(
      options, file, environment: ["KCOPYD_SOCKET": "/variable", "KCOPYD_STATE": "/variable"])
    #expect(settings.socket == "/option")
    #expect(settings.state == "/variable")
    #expect(settings.logLevel == .trace)
  }

  @Test(arguments: [
    ("", "line 1, column 1: a value is missing"),
    ("[]", "line 1, column 1: the whole must be an object, and is a list"),
    ("{\n  \"nbd\": {\"listne\": []}}", "line 2, column 11: unknown setting 'nbd.listne'"),
    ("{\"colour\": 1}", "line 1, column 2: unknown setting 'colour'"),
    ("{\"log\": 5}", "line 1, column 9: 'log' must be a text, and is a number"),
    (
      "{\"nbd\": {\"threads\": \"2\"}}",
      "line 1, column 21: 'nbd.threads' must be a number, and is a text"
    ),
    ("{\"nbd\": 5}", "line 1, column 9: 'nbd' must be an object, and is a number"),
    ("{\"nbd\": {\"listen\": [\n true]}}", "line 2, column 2: an element of"),
    ("{\"log\": \"info\", \"log\": \"info\"}", "line 1, column 17: 'log' stands here twice"),
    ("{\"devices\": {\"a\": {\"tabel\": \"\"}}}", "line 1, column 20: unknown member 'tabel'"),
    ("{\"devices\": {\"a\": {}}}", "line 1, column 19: device 'a' has no table"),
    ("{\"exports\": {\"a\": null}}", "line 1, column 19: an export must be a text"),
    ("{\"log\": \"info\"} x", "line 1, column 17: nothing may follow"),
    ("{\"log\": \"in\nfo\"}", "line 2, column 1: a text must end in its line"),
    ("{\"log\": \"\\ud800x\"}", "half a character"), ("{\"log\" \"info\"}", "':' is missing"),
    ("{\"log\": nul}", "line 1, column 9: a value is missing"),
    (String(repeating: "[", count: 100_000), "nested too deeply"),
  ])
  func malformedFilesAreRefusedWithTheirPlace(text: String, reason: String) {
    let failure = #expect(throws: ControlFailure.self) {
      try ConfigurationFile(text, name: "f.json")
    }
    #expect(failure?.kind == .refused)
    #expect(failure?.message.contains(reason) == true, "\(failure?.message ?? "")")
  }

  @Test(arguments: [
    ("log", "loud"), ("metrics", "9090"), ("metrics", ":1"), ("metrics", "::1:5"),
    ("metrics", "h:70000"),
  ])
  func valuesThatCantBeAreRefused(setting: String, value: String) throws {
    let file = try ConfigurationFile("{\"\(setting)\": \"\(value)\"}", name: "f")
    let failure = #expect(throws: ControlFailure.self) {
      try Settings(ServeOptions(), file, environment: [:])
    }
    let column = setting.count + 6
    #expect(failure?.message.hasPrefix("'f' line 1, column \(column): \(setting): ") == true)
    let variable = "KCOPYD_" + setting.uppercased()
    let other = #expect(throws: ControlFailure.self) {
      try Settings(ServeOptions(), file, environment: [variable: value])
    }
    #expect(other?.message.hasPrefix("\(variable): \(setting): ") == true)
  }

  @Test(arguments: ["0", "65", "many", "-1"])
  func aNumberOfThreadsIsRefused(text: String) throws {
    var options = ServeOptions()
    options.threads = text
    #expect(throws: ControlFailure.self) {
      try Settings(options, ConfigurationFile(), environment: [:])
    }
  }

  @Test(arguments: ["-1", "1001", "soon"])
  func aTimeToLookForIsRefused(text: String) throws {
    var options = ServeOptions()
    options.poll = text
    #expect(throws: ControlFailure.self) {
      try Settings(options, ConfigurationFile(), environment: [:])
    }
    options.poll = "0"
    #expect(try Settings(options, ConfigurationFile(), environment: [:]).poll == .zero)
  }

  @Test func theNumberOfThreadsComesFromWhereverItIsSet() throws {
    let file = try ConfigurationFile("{\"nbd\": {\"threads\": 3}}", name: "f")
    #expect(try Settings(ServeOptions(), file, environment: [:]).threads == 3)
    let variables = ["KCOPYD_NBD_THREADS": "2"]
    #expect(try Settings(ServeOptions(), file, environment: variables).threads == 2)
    var options = ServeOptions()
    options.threads = "1"
    #expect(try Settings(options, file, environment: variables).threads == 1)
  }

  @Test func tlsNeedsACertificateAndItsKey() throws {
    var options = ServeOptions()
    options.tlsMode = "require"
    #expect(throws: ControlFailure.self) {
      try Settings(options, ConfigurationFile(), environment: [:])
    }
    options.tlsCertificate = "/c"
    options.tlsKey = "/k"
    #expect(
      try Settings(options, ConfigurationFile(), environment: [:]).tls?.isRequired == true)
    options.tlsMode = "off"
    #expect(throws: ControlFailure.self) {
      try Settings(options, ConfigurationFile(), environment: [:])
    }
  }

  @Test func escapesAreRead() throws {
    let json = try PositionedJSON(#""a\u00e4\n\"\\\/\ud83d\ude00""#)
    guard case .string(let text) = json.value else { return #expect(Bool(false)) }
    #expect(text == "aä\n\"\\/😀")
  }
}
