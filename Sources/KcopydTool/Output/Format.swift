import BlockIO
import Foundation

/// Numbers as people read them.
enum Format {
  /// `1.5 GiB`, `512 B`.
  static func bytes(_ count: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    var value = Double(count)
    var unit = 0
    while value >= 1024, unit < units.count - 1 {
      value /= 1024
      unit += 1
    }
    return unit == 0 ? "\(count) B" : String(format: "%.1f %@", value, units[unit])
  }

  /// `1.5 GiB/s`.
  static func rate(_ bytesPerSecond: Double) -> String {
    guard bytesPerSecond.isFinite, bytesPerSecond >= 0, bytesPerSecond < 1e18 else { return "–" }
    return bytes(UInt64(bytesPerSecond)) + "/s"
  }

  /// `0.21 s`, `1:02`, `3:04:05`.
  static func duration(_ duration: Duration) -> String {
    let seconds = Double(duration.nanoseconds) / 1e9
    if seconds < 60 { return String(format: seconds < 10 ? "%.2f s" : "%.1f s", seconds) }
    return clock(seconds)
  }

  /// `0:07`, `1:02`, `3:04:05`.
  static func clock(_ seconds: Double) -> String {
    guard seconds.isFinite, seconds < 1e8 else { return "–" }
    let whole = Int(seconds.rounded(.up))
    let (hours, minutes) = (whole / 3600, whole / 60 % 60)
    return hours > 0
      ? String(format: "%d:%02d:%02d", hours, minutes, whole % 60)
      : String(format: "%d:%02d", minutes, whole % 60)
  }

  /// `204800–524287`, several with commas, at most `limit` of them.
  static func ranges(_ set: RangeSet<Sector>, limit: Int = 4) -> String {
    let ranges = set.ranges.prefix(limit).map { range in
      range.length == 1
        ? "\(range.lowerBound.rawValue)"
        : "\(range.lowerBound.rawValue)–\((range.upperBound - 1).rawValue)"
    }
    let more = set.ranges.count - ranges.count
    return ranges.joined(separator: ", ") + (more > 0 ? " and \(more) more" : "")
  }

  /// Rows in columns as wide as they must be.
  static func table(_ rows: [[String]]) -> String {
    let columns = rows.map(\.count).max() ?? 0
    let widths = (0..<columns).map { column in
      // The last cell of a row has no one behind it to keep in line.
      rows.map { column < $0.count - 1 ? $0[column].count : 0 }.max() ?? 0
    }
    return rows.map { row in
      row.enumerated().map { column, text in
        column == row.count - 1
          ? text : text + String(repeating: " ", count: widths[column] - text.count + 2)
      }.joined()
    }.joined(separator: "\n")
  }
}
