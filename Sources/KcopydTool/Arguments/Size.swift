import BlockIO

/// A number of bytes as people write it: `2048s`, `1MiB`, `500MB`; a plain number counts in the
/// unit of the argument.
enum Size {
  /// Why a text is no size.
  enum Malformed: Error, Equatable {
    case noNumber
    case unknownUnit(String)
    case overflow
  }

  private static let units: [String: UInt64] = {
    var units: [String: UInt64] = ["": 1, "b": 1, "s": 512]
    for (power, letter) in ["k", "m", "g", "t", "p", "e"].enumerated() {
      let binary: UInt64 = 1 << (10 * UInt64(power + 1))
      units[letter] = binary
      units[letter + "ib"] = binary
      units[letter + "b"] = (0...power).reduce(1) { product, _ in product * 1000 }
    }
    return units
  }()

  /// The number of bytes that `text` says; `plain` is the unit of a number without one.
  static func bytes(_ text: String, plain: UInt64) throws(Malformed) -> UInt64 {
    let digits = text.prefix { ("0"..."9").contains($0) }
    guard !digits.isEmpty else { throw .noNumber }
    guard let number = UInt64(digits) else { throw .overflow }
    let unit = text.dropFirst(digits.count)
    let factor: UInt64
    if unit.isEmpty {
      factor = plain
    } else if let known = units[unit.lowercased()] {
      factor = known
    } else {
      throw .unknownUnit(String(unit))
    }
    let (product, overflow) = number.multipliedReportingOverflow(by: factor)
    guard !overflow, product <= UInt64(Int64.max) else { throw .overflow }
    return product
  }
}

extension Size.Malformed {
  /// What is wrong with `text`, in words.
  func explanation(of text: String) -> String {
    switch self {
    case .noNumber: "'\(text)' is not a number with a unit, such as 2048s or 1MiB"
    case .unknownUnit(let unit):
      "'\(text)': unknown unit '\(unit)'; known are s, KiB, MiB, GiB, TiB, kB, MB, GB, TB"
    case .overflow: "'\(text)' is too large"
    }
  }
}

extension Sector {
  /// A place or a length as the option `option` says it; a plain number counts sectors.
  init(_ text: String, option: String) throws(Refusal) {
    let bytes = try Size.bytes(text, plain: Sector.byteCount, option: option)
    guard bytes % Sector.byteCount == 0 else {
      throw Refusal("\(option): '\(text)' is not a whole number of sectors of 512 bytes")
    }
    self.init(bytes / Sector.byteCount)
  }
}

extension Size {
  /// The number of bytes that the option `option` says.
  static func bytes(_ text: String, plain: UInt64, option: String) throws(Refusal) -> UInt64 {
    do throws(Malformed) {
      return try bytes(text, plain: plain)
    } catch {
      throw Refusal("\(option): \(error.explanation(of: text))")
    }
  }
}
