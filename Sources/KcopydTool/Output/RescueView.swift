import BlockIO
import Imaging

/// What the progress of a copy with a map, or of a rescue, looks like. Pure.
struct RescueView: ProgressLines {
  private let names: [String]
  private let isRescue: Bool
  private let byteCount: UInt64
  private var snapshot = ImagingSnapshot()
  private var elapsed = Duration.zero
  /// Bytes per second, smoothed over some seconds.
  private var speed: Double?
  private var last: (done: UInt64, elapsed: Duration)?

  init(names: [String], isRescue: Bool, byteCount: UInt64) {
    self.names = names
    self.isRescue = isRescue
    self.byteCount = byteCount
  }

  private var done: UInt64 { snapshot.bytes[.finished, default: 0] }

  /// Takes in a new moment.
  mutating func update(_ snapshot: ImagingSnapshot, after elapsed: Duration) {
    self.snapshot = snapshot
    self.elapsed = elapsed
    guard let last else {
      self.last = (done, elapsed)
      return
    }
    let seconds = Double((elapsed - last.elapsed).nanoseconds) / 1e9
    guard seconds > 0.05 else { return }
    let now = Double(done) - Double(min(done, last.done))
    let weight = min(1, seconds / 3)
    speed = speed.map { $0 * (1 - weight) + now / seconds * weight } ?? now / seconds
    self.last = (done, elapsed)
  }

  /// The lines for a terminal of that width.
  func lines(columns: Int) -> [String] {
    var lines = [summary]
    if isRescue { lines.append(areas) }
    for (index, destination) in snapshot.destinations.enumerated() where destination.hasFailed {
      lines.append("  \(names[index]): failed, \(Format.bytes(destination.durable)) durable")
    }
    if snapshot.mapHasFailed { lines.append("  the map can't be written; trying again") }
    return lines.map {
      $0.count > columns - 1 ? $0.prefix(max(0, columns - 2)) + (columns > 1 ? "…" : "") : $0
    }
  }

  private var summary: String {
    let share = byteCount == 0 ? 0 : Double(done) / Double(byteCount)
    var parts = ["\(Format.bytes(done)) of \(Format.bytes(byteCount))"]
    parts.append(Format.rate(speed ?? 0))
    if let speed, speed > 0, done < byteCount {
      parts.append("\(Format.clock(Double(byteCount - done) / speed)) left")
    }
    let durable = snapshot.destinations.filter { !$0.hasFailed }.map(\.durable).min() ?? 0
    if durable > 0 { parts.append("\(Format.bytes(durable)) durable") }
    return "\(title)  \(ProgressView.bar(share)) \(ProgressView.percent(share)) %  "
      + parts.joined(separator: ", ")
  }

  private var title: String {
    guard isRescue else { return "copying" }
    let direction = snapshot.isForward ? "forwards" : "backwards"
    return switch snapshot.phase {
    case .copying, .filling, .generating: "copying, pass \(snapshot.pass) \(direction)"
    case .trimming: "trimming"
    case .scraping: "scraping"
    case .retrying: "retrying, pass \(snapshot.pass) \(direction)"
    case .finished: "finishing"
    }
  }

  private var areas: String {
    func bytes(_ status: BlockStatus) -> String {
      Format.bytes(snapshot.bytes[status, default: 0])
    }
    return "  at sector \(snapshot.position.rawValue), not tried \(bytes(.nonTried)),"
      + " not trimmed \(bytes(.nonTrimmed)), not scraped \(bytes(.nonScraped)),"
      + " bad \(bytes(.badSector)) in \(snapshot.badAreas) areas,"
      + " \(snapshot.readErrors) read errors,"
      + " last good read \(Format.clock(Double(snapshot.sinceGoodRead.nanoseconds) / 1e9)) ago"
  }
}
