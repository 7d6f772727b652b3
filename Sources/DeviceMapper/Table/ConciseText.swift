/// A device as dmsetup's concise format has it.
public struct ConciseDevice: Hashable, Sendable {
  /// Its name.
  public var name: String
  /// Its uuid; empty: none.
  public var uuid: String
  /// Its number; nil: any.
  public var minor: UInt32?
  /// Whether it can only be read.
  public var isReadOnly: Bool
  /// The lines of its table; none: it has no table.
  public var table: [String]

  /// A device.
  public init(
    name: String, uuid: String = "", minor: UInt32? = nil, isReadOnly: Bool = false,
    table: [String]
  ) {
    self.name = name
    self.uuid = uuid
    self.minor = minor
    self.isReadOnly = isReadOnly
    self.table = table
  }
}

/// dmsetup's concise format: `NAME,UUID,MINOR,FLAGS,LINE[,LINE…][;NAME,…]`. A backslash takes the next
/// character as it is.
public enum ConciseText {
  /// The most devices.
  static let deviceLimit = 4096

  /// Reads devices.
  ///
  /// - Throws: what is wrong, with the number of the device and of the field, both from 1.
  public static func devices(_ text: String) throws(DeviceMapperError) -> [ConciseDevice] {
    var devices: [ConciseDevice] = []
    var names: Set<String> = []
    let all = try fields(text)
    for (index, fields) in all.enumerated() {
      // Behind the last semicolon nothing need follow.
      if fields == [""], index == all.count - 1, index > 0 { break }
      let device = try device(fields, number: index + 1)
      guard names.insert(device.name).inserted else {
        throw refused(index + 1, 1, "there is a device '\(device.name)' before it")
      }
      devices.append(device)
    }
    return devices
  }

  private static func device(
    _ fields: [String], number: Int
  ) throws(DeviceMapperError) -> ConciseDevice {
    var device = ConciseDevice(name: fields[0], table: Array(fields.dropFirst(4)))
    guard !device.name.isEmpty else { throw refused(number, 1, "the name is missing") }
    guard fields.count >= 4 else {
      throw refused(
        number, fields.count + 1, "'\(device.name)' has no more than \(fields.count) fields",
        advice: "NAME,UUID,MINOR,FLAGS,LINE… is wanted; uuid, minor and flags may be empty")
    }
    device.uuid = fields[1]
    if !fields[2].isEmpty {
      guard let minor = UInt32(fields[2]), minor < 1 << 20 else {
        throw refused(number, 3, "'\(fields[2])' is no minor number")
      }
      device.minor = minor
    }
    switch fields[3] {
    case "", "rw": break
    case "ro": device.isReadOnly = true
    default:
      throw refused(number, 4, "there is no flag '\(fields[3])'", advice: "there are ro and rw")
    }
    return device
  }

  /// The fields of each device, quoting taken away; blanks around them don't count.
  private static func fields(_ text: String) throws(DeviceMapperError) -> [[String]] {
    var devices: [[String]] = [[]]
    var field = Field()
    var isQuoted = false
    for character in text.unicodeScalars {
      if isQuoted {
        field.append(character, isQuoted: true)
        isQuoted = false
      } else if character == "\\" {
        isQuoted = true
      } else if character == "," || character == ";" {
        devices[devices.count - 1].append(field.text)
        field = Field()
        guard character == ";" else { continue }
        guard devices.count < deviceLimit else {
          throw DeviceMapperError(.table, "more than \(deviceLimit) devices")
        }
        devices.append([])
      } else {
        field.append(character, isQuoted: false)
      }
    }
    guard !isQuoted else {
      throw refused(
        devices.count, (devices.last?.count ?? 0) + 1, "nothing follows the backslash at the end")
    }
    devices[devices.count - 1].append(field.text)
    return devices
  }

  /// A field that is being read.
  private struct Field {
    private var scalars = String.UnicodeScalarView()
    /// Up to where blanks at the end don't belong to it.
    private var end = 0

    mutating func append(_ scalar: Unicode.Scalar, isQuoted: Bool) {
      let isBlank = !isQuoted && scalar.properties.isWhitespace
      if isBlank, scalars.isEmpty { return }
      scalars.append(scalar)
      if !isBlank { end = scalars.count }
    }

    var text: String { String(String.UnicodeScalarView(scalars.prefix(end))) }
  }

  private static func refused(
    _ device: Int, _ field: Int, _ reason: String, advice: String? = nil
  ) -> DeviceMapperError {
    DeviceMapperError(.table, "device \(device) field \(field): \(reason)", advice: advice)
  }

  /// The devices on one line, as dmsetup prints them.
  public static func text(_ devices: [ConciseDevice]) -> String {
    devices.map { device in
      let minor = device.minor.map { "\($0)" } ?? ""
      return
        ([device.name, device.uuid, minor, device.isReadOnly ? "ro" : "rw"] + device.table)
        .map(quoted).joined(separator: ",")
    }.joined(separator: ";")
  }

  private static func quoted(_ field: String) -> String {
    var text = String.UnicodeScalarView()
    for (index, scalar) in field.unicodeScalars.enumerated() {
      let isAtEnd = index == 0 || index == field.unicodeScalars.count - 1
      if ",;\\".unicodeScalars.contains(scalar) || isAtEnd && scalar.properties.isWhitespace {
        text.append("\\")
      }
      text.append(scalar)
    }
    return String(text)
  }
}
