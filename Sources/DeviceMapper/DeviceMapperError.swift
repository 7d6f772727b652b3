/// Why a verb or a table was refused: which device, where in its table, what is wrong, what to do.
/// Running devices are as they were before.
public struct DeviceMapperError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What sort of refusal it is, for programs.
  public enum Kind: String, Sendable {
    /// A word of a table line.
    case table
    /// A name or uuid that can't be.
    case name
    /// No device of that name.
    case missing
    /// There is one of that name or uuid already.
    case exists
    /// The device is open, or used by the table of another one.
    case busy
    /// The verb comes out of turn.
    case state
    /// A message that the target doesn't take.
    case message
    /// A device can't be opened, read or written.
    case io
  }

  /// What sort of refusal it is.
  public let kind: Kind
  /// The mapped device.
  public var device: String?
  /// The line of its table, from 1.
  public var line: Int?
  /// The word of that line, from 1: the start is the first, the target's name the third.
  public var word: Int?
  /// What is wrong.
  public let reason: String
  /// What to do about it.
  public var advice: String?

  /// A refusal.
  public init(
    _ kind: Kind, device: String? = nil, line: Int? = nil, word: Int? = nil, _ reason: String,
    advice: String? = nil
  ) {
    self.kind = kind
    self.device = device
    self.line = line
    self.word = word
    self.reason = reason
    self.advice = advice
  }

  /// One line.
  public var description: String {
    var place: [String] = []
    if let device { place.append("'\(device)'") }
    if let line { place.append("line \(line)") }
    if let word { place.append("word \(word)") }
    let prefix = place.isEmpty ? "" : place.joined(separator: " ") + ": "
    return prefix + reason + (advice.map { "; \($0)" } ?? "")
  }

  /// The same refusal for somebody who hasn't written the table: without line and word.
  public var withoutPlace: DeviceMapperError {
    var plain = self
    (plain.line, plain.word) = (nil, nil)
    return plain
  }

  /// The same refusal with the device that it is about, unless it names one.
  public func of(_ device: String) -> DeviceMapperError {
    var named = self
    named.device = self.device ?? device
    return named
  }
}
