import Daemon
import Foundation

/// What dmsetup prints, in its forms.
enum DeviceOutput {
  /// What the devices' numbers begin with; no device of the kernel has it.
  static let major = 253

  /// Lines by device; several devices have their names before each line.
  static func lines(_ answer: ControlAnswer, of name: String?, _ json: Bool) throws {
    guard case .lines(let devices) = answer else { return }
    if json { return Output.say(try encodeJSON(devices)) }
    if devices.isEmpty { return Output.say("No devices found") }
    for device in devices {
      let prefix = name == nil ? "\(device.name): " : ""
      for line in device.lines { Output.say(prefix + line) }
      if device.lines.isEmpty, name == nil { Output.say(prefix) }
    }
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
    if let uuid = device.uuid { rows.append(["UUID:", uuid]) }
    if let operation = device.operation { rows.append(["Under way:", operation]) }
    if let problem = device.problem { rows.append(["Not there:", problem]) }
    return rows.map { row in
      row[0].padding(toLength: 19, withPad: " ", startingAt: 0) + row[1]
    }.joined(separator: "\n")
  }
}
