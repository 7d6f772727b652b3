import Daemon
import Foundation

/// What dmsetup prints, in its forms.
enum DeviceOutput {
  /// What the devices' numbers begin with.
  static let major = 253

  /// Lines by device; of several devices each line has its device's name before it.
  static func lines(
    _ devices: [DeviceLines], of target: String?, isNamed: Bool, _ json: Bool
  ) throws {
    let chosen = devices.map { DeviceLines(name: $0.name, lines: lines($0.lines, of: target)) }
    if json { return Output.say(try encodeJSON(chosen)) }
    if devices.isEmpty { return Output.say("No devices found") }
    for device in chosen {
      let prefix = isNamed ? "\(device.name): " : ""
      for line in device.lines { Output.say(prefix + line) }
      if device.lines.isEmpty, isNamed, target == nil { Output.say(prefix) }
    }
  }

  /// Those of a kind of target; nil: all.
  static func lines(_ lines: [String], of target: String?) -> [String] {
    guard let target else { return lines }
    return lines.filter { $0.split(separator: " ").dropFirst(2).first == target[...] }
  }

  /// A line of a table without the blank behind a target that takes no words; one that is quoted stays.
  static func trimmed(_ line: String) -> String {
    line.hasSuffix(" ") && !line.hasSuffix("\\ ") ? String(line.dropLast()) : line
  }

  /// `MAJOR, MINOR` as dmsetup has it in lists; a path or a URI as it is.
  static func number(_ label: String) -> String {
    let parts = label.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2, parts.allSatisfy({ UInt32($0) != nil }) else { return label }
    return parts.joined(separator: ", ")
  }

  static func info(_ device: DeviceSummary) -> String {
    let tables =
      switch (device.hasLive, device.hasInactive) {
      case (true, true): "LIVE & INACTIVE"
      case (true, false): "LIVE"
      case (false, true): "INACTIVE"
      case (false, false): "None"
      }
    let state = device.isSuspended ? "SUSPENDED" : "ACTIVE"
    var rows = [
      ["Name:", device.name],
      [
        "State:",
        state + (device.isReadOnly ? " (READ-ONLY)" : "")
          + (device.isRemovalDeferred ? " (DEFERRED REMOVE)" : ""),
      ],
      ["Tables present:", tables],
      ["Open count:", "\(device.openCount)"],
      ["Event number:", "\(device.eventNumber)"],
      ["Major, minor:", "\(major), \(device.minor)"],
      ["Number of targets:", "\(device.targetCount)"],
    ]
    if let uuid = device.uuid { rows.append(["UUID: ", uuid]) }
    if let operation = device.operation { rows.append(["Under way:", operation]) }
    if let problem = device.problem { rows.append(["Not there:", problem]) }
    return rows.map { row in
      row[0].hasSuffix(" ")
        ? row[0] + row[1]
        : row[0].padding(toLength: 19, withPad: " ", startingAt: 0) + row[1]
    }.joined(separator: "\n")
  }
}
