import BlockIO
import Foundation
import Kcopyd

/// What progress looks like, as lines of text.
protocol ProgressLines {
  /// The lines for a terminal of that width.
  func lines(columns: Int) -> [String]
}

/// What the progress of a job looks like, as lines of text. Pure.
struct ProgressView: ProgressLines {
  private let title: String
  private let byteCount: UInt64
  private let names: [String]
  private let makesDurable: Bool
  private var snapshot = CopyProgress.Snapshot(destinations: 0)
  private var elapsed = Duration.zero
  private var isFlushing = false
  /// Bytes per second, smoothed over some seconds.
  private var speed: Double?
  private var last: (done: UInt64, elapsed: Duration) = (0, .zero)

  /// The most destinations that get a line of their own.
  static let maximumLines = 12

  init(title: String, byteCount: UInt64, names: [String], makesDurable: Bool) {
    self.title = title
    self.byteCount = byteCount
    self.names = names
    self.makesDurable = makesDurable
  }

  /// What every destination that still counts has got.
  private var done: UInt64 {
    let alive = snapshot.destinations.filter { !$0.hasFailed }
    return min(byteCount, alive.map(\.written).min() ?? 0)
  }

  /// Takes in a new moment.
  mutating func update(
    _ snapshot: CopyProgress.Snapshot, after elapsed: Duration, isFlushing: Bool
  ) {
    self.snapshot = snapshot
    self.elapsed = elapsed
    self.isFlushing = isFlushing
    let seconds = Double((elapsed - last.elapsed).nanoseconds) / 1e9
    guard seconds > 0.05 else { return }
    let now = Double(done) - Double(min(done, last.done))
    let weight = min(1, seconds / 3)
    speed = speed.map { $0 * (1 - weight) + now / seconds * weight } ?? now / seconds
    last = (done, elapsed)
  }

  /// The lines for a terminal of that width.
  func lines(columns: Int) -> [String] {
    var lines = [summary(columns: columns)]
    if differ {
      for (index, destination) in snapshot.destinations.enumerated().prefix(Self.maximumLines) {
        lines.append(line(names[index], destination))
      }
      let more = names.count - Self.maximumLines
      if more > 0 { lines.append("  … and \(more) more") }
    }
    return lines.map {
      $0.count > columns - 1 ? $0.prefix(max(0, columns - 2)) + (columns > 1 ? "…" : "") : $0
    }
  }

  /// Whether the destinations are worth a line each.
  private var differ: Bool {
    guard names.count > 1, let first = snapshot.destinations.first else { return false }
    let spread = snapshot.destinations.map(\.written)
    let widest = (spread.max() ?? 0) - (spread.min() ?? 0)
    return snapshot.destinations.contains { $0.hasFailed != first.hasFailed || $0.hasFailed }
      || widest > 64 << 20
      || (isFlushing && snapshot.destinations.contains { $0.durable != first.durable })
  }

  private func summary(columns: Int) -> String {
    let durable = snapshot.destinations.filter { !$0.hasFailed }.map(\.durable).min() ?? 0
    var parts = ["\(Format.bytes(done)) of \(Format.bytes(byteCount))"]
    if isFlushing && makesDurable {
      parts.append("making it durable: \(Format.bytes(durable)) so far")
    } else {
      parts.append(Format.rate(speed ?? 0))
      if let speed, speed > 0 {
        parts.append("\(Format.clock(Double(byteCount - done) / speed)) left")
      }
      if makesDurable && durable > 0 { parts.append("\(Format.bytes(durable)) durable") }
    }
    let share = byteCount == 0 ? 0 : Double(done) / Double(byteCount)
    return "\(title)  \(Self.bar(share)) \(Self.percent(share)) %  " + parts.joined(separator: ", ")
  }

  /// Never 100: that is said when everything is durable, and then by other words.
  static func percent(_ share: Double) -> String {
    let value = min(99, Int(share * 100))
    return value < 10 ? " \(value)" : "\(value)"
  }

  static func bar(_ share: Double) -> String {
    let width = 20
    let full = min(width - 1, Int(share * Double(width)))
    return "[" + String(repeating: "█", count: full) + String(repeating: "·", count: width - full)
      + "]"
  }

  private func line(_ name: String, _ destination: CopyProgress.Destination) -> String {
    let state =
      if destination.hasFailed {
        "failed"
      } else if destination.durable >= byteCount {
        "durable"
      } else {
        "\(Format.bytes(destination.durable)) durable"
      }
    return "  \(name): \(Format.bytes(destination.written)) written, \(state)"
  }
}

/// Where progress is shown: redrawn in place on a terminal, a plain line now and then elsewhere.
struct ProgressScreen {
  private let isTerminal: Bool
  private var drawn = 0
  private var updates = 0

  /// Off a terminal every so many updates make a line: one in ten seconds.
  private static let updatesPerLine = 100

  init(isTerminal: Bool) { self.isTerminal = isTerminal }

  mutating func show(_ view: some ProgressLines) {
    updates += 1
    guard isTerminal else {
      if updates % Self.updatesPerLine == 0 {
        for line in view.lines(columns: 200) { Output.note(line) }
      }
      return
    }
    let lines = view.lines(columns: Output.columns)
    Output.draw(erase + lines.joined(separator: "\n"))
    drawn = lines.count
  }

  /// Leaves the place as it was.
  mutating func clear() {
    guard isTerminal, drawn > 0 else { return }
    Output.draw(erase)
    drawn = 0
  }

  /// To the first of the lines drawn, and away with all of them.
  private var erase: String {
    "\r" + (drawn > 1 ? "\u{1B}[\(drawn - 1)A" : "") + "\u{1B}[J"
  }
}
