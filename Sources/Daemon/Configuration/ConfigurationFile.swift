import Configuration
import Foundation

/// The configuration file: settings, and the devices and exports that are made if they aren't
/// there. Everything in it is checked before anything is started.
struct ConfigurationFile: Sendable {
  /// A device to be made.
  struct Device: Sendable {
    var record: SavedDevice
    /// Where it stands in the file, for messages.
    var place: String
  }

  /// An export to be made.
  struct Export: Sendable {
    var record: SavedExport
    var place: String
  }

  /// The settings, for the reader that also looks at options and the environment.
  var settings: [AbsoluteConfigKey: ConfigValue] = [:]
  /// Where each of them stands, for messages.
  var places: [AbsoluteConfigKey: String] = [:]
  var devices: [Device] = []
  var exports: [Export] = []

  private static let maximumBytes = 16 << 20

  /// Nothing.
  init() {}

  /// What the file at `path` says.
  init(path: String) throws(ControlFailure) {
    let data: Data
    do {
      data = try Data(contentsOf: URL(fileURLWithPath: path))
    } catch {
      throw .refused("--config: '\(path)' can't be read: \(error.plainReason)")
    }
    guard data.count <= Self.maximumBytes, let text = String(data: data, encoding: .utf8) else {
      throw .refused("--config: '\(path)' is no text in UTF-8 of at most 16 MiB")
    }
    try self.init(text, name: path)
  }

  /// What `text` says; `name` is that of the file, for messages.
  init(_ text: String, name: String) throws(ControlFailure) {
    do throws(PositionedJSON.Malformed) {
      let reader = Reader(file: name)
      for (key, value) in try reader.members(of: PositionedJSON(text), "the whole") {
        switch key.text {
        case "devices": devices = try reader.devices(value)
        case "exports": exports = try reader.exports(value)
        default: try reader.setting([key.text], key.position, value, into: &self)
        }
      }
    } catch {
      throw .refused("'\(name)' \(error.position): \(error.reason)")
    }
  }
}

extension PositionedJSON {
  /// The name of a member.
  fileprivate var text: String {
    if case .string(let text) = value { text } else { "" }
  }
}

/// Takes the tree apart.
private struct Reader {
  typealias Malformed = PositionedJSON.Malformed
  typealias Member = (key: PositionedJSON, value: PositionedJSON)

  let file: String

  private func place(_ position: PositionedJSON.Position) -> String { "'\(file)' \(position)" }

  func members(of json: PositionedJSON, _ what: String) throws(Malformed) -> [Member] {
    guard case .object(let members) = json.value else {
      throw Malformed(
        position: json.position, reason: "\(what) must be an object, and is \(json.kind)")
    }
    return members
  }

  /// A setting, or a group of them.
  func setting(
    _ path: [String], _ position: PositionedJSON.Position, _ json: PositionedJSON,
    into file: inout ConfigurationFile
  ) throws(Malformed) {
    let name = path.joined(separator: ".")
    if Setting.all.contains(where: { $0.path.starts(with: path) && $0.path.count > path.count }) {
      for (key, value) in try members(of: json, "'\(name)'") {
        try setting(path + [key.text], key.position, value, into: &file)
      }
      return
    }
    guard let known = Setting.all.first(where: { $0.path == path }) else {
      let siblings = Setting.all.filter { $0.path.starts(with: path.dropLast()) }
        .map { $0.path[path.count - 1] }
      let names = Set(siblings + (path.count == 1 ? ["devices", "exports"] : [])).sorted()
      throw Malformed(
        position: position,
        reason: "unknown setting '\(name)'; known here are \(names.joined(separator: ", "))")
    }
    let text: [String]
    switch (known.kind, json.value) {
    case (.list, .array(let elements)):
      text = try strings(elements, "'\(name)'")
    case (.list, .string(let string)), (.text, .string(let string)),
      (.number, .number(let string)):
      text = [string]
    default:
      throw Malformed(
        position: json.position,
        reason: "'\(name)' must be \(known.kind.rawValue), and is \(json.kind)")
    }
    file.places[AbsoluteConfigKey(path)] = place(json.position)
    file.settings[AbsoluteConfigKey(path)] =
      known.kind == .list
      ? .init(.stringArray(text), isSecret: false)
      : .init(.string(text[0]), isSecret: false)
  }

  private func strings(
    _ elements: [PositionedJSON], _ what: String
  ) throws(Malformed) -> [String] {
    var texts: [String] = []
    for element in elements { texts.append(try string(element, "an element of \(what)")) }
    return texts
  }

  private func string(_ json: PositionedJSON, _ what: String) throws(Malformed) -> String {
    guard case .string(let text) = json.value else {
      throw Malformed(
        position: json.position, reason: "\(what) must be a text, and is \(json.kind)")
    }
    return text
  }

  private func bool(_ json: PositionedJSON, _ what: String) throws(Malformed) -> Bool {
    guard case .bool(let bool) = json.value else {
      throw Malformed(
        position: json.position, reason: "\(what) must be true or false, and is \(json.kind)")
    }
    return bool
  }

  private func unknown(_ key: PositionedJSON, _ known: String) -> Malformed {
    Malformed(
      position: key.position, reason: "unknown member '\(key.text)'; known here are \(known)")
  }

  /// `"name": {"table": "…" or ["…"], "uuid": "…", "readOnly": false}`, or just the table.
  func devices(_ json: PositionedJSON) throws(Malformed) -> [ConfigurationFile.Device] {
    var devices: [ConfigurationFile.Device] = []
    for (name, body) in try members(of: json, "'devices'") {
      var record = SavedDevice(name: name.text)
      if case .object(let members) = body.value {
        for (key, value) in members {
          switch key.text {
          case "table": record.table = try table(value)
          case "uuid": record.uuid = try string(value, "'uuid'")
          case "readOnly": record.isReadOnly = try bool(value, "'readOnly'")
          default: throw unknown(key, "readOnly, table, uuid")
          }
        }
      } else {
        record.table = try table(body)
      }
      guard record.table != nil else {
        throw Malformed(position: body.position, reason: "device '\(name.text)' has no table")
      }
      devices.append(.init(record: record, place: place(name.position)))
    }
    return devices
  }

  private func table(_ json: PositionedJSON) throws(Malformed) -> String {
    if case .array(let lines) = json.value {
      return try strings(lines, "a table").joined(separator: "\n")
    }
    return try string(json, "a table")
  }

  /// `"export": "device"`, or `{"device": "…", "readOnly": false}`.
  func exports(_ json: PositionedJSON) throws(Malformed) -> [ConfigurationFile.Export] {
    var exports: [ConfigurationFile.Export] = []
    for (name, body) in try members(of: json, "'exports'") {
      var record = SavedExport(export: name.text, device: name.text)
      if case .object(let members) = body.value {
        for (key, value) in members {
          switch key.text {
          case "device": record.device = try string(value, "'device'")
          case "readOnly": record.isReadOnly = try bool(value, "'readOnly'")
          default: throw unknown(key, "device, readOnly")
          }
        }
      } else {
        record.device = try string(body, "an export")
      }
      exports.append(.init(record: record, place: place(name.position)))
    }
    return exports
  }
}
