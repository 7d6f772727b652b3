import ArgumentParser

/// A number of bytes as people write it: `4096`, `64KiB`, `1GiB`.
struct ByteSize: ExpressibleByArgument, CustomStringConvertible, Hashable {
  var bytes: Int

  private static let units: [(suffix: String, bytes: Int)] = [
    ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10),
  ]

  init(bytes: Int) { self.bytes = bytes }

  init?(argument: String) {
    let unit = Self.units.first { argument.hasSuffix($0.suffix) }
    let digits = argument.dropLast(unit?.suffix.count ?? 0)
    guard let number = Int(digits), number > 0 else { return nil }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit?.bytes ?? 1)
    guard !overflow else { return nil }
    self.bytes = bytes
  }

  var description: String {
    let unit = Self.units.first { bytes >= $0.bytes && bytes % $0.bytes == 0 }
    guard let unit else { return "\(bytes)" }
    return "\(bytes / unit.bytes)\(unit.suffix)"
  }
}
