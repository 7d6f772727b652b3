/// What a server said of an export when it was put to use.
struct ExportInfo: Hashable, Sendable {
  var byteCount: UInt64
  var flags: TransmissionFlags
  var minimumBlock: UInt64 = 1
  var preferredBlock: UInt64 = 4096
  var maximum = WireLimits.defaultMaximum
  var isStructured = false
  /// The number by which the server names `base:allocation`, if it has it.
  var allocation: UInt32?

  var layout: ExportLayout {
    ExportLayout(byteCount: byteCount, block: minimumBlock, maximum: maximum)
  }
}

/// Why a connection isn't used any more, in words.
struct LineFailure: Error, Hashable, Sendable, CustomStringConvertible {
  let description: String
  /// Whether another attempt would end the same way.
  let isFinal: Bool

  init(_ description: String, isFinal: Bool = false) {
    self.description = description
    self.isFinal = isFinal
  }

  /// The server did what the protocol doesn't allow.
  static func lie(_ what: String) -> LineFailure { LineFailure("the server lies: \(what)") }
}
