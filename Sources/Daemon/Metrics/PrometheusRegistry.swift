import Metrics
import Synchronization

/// A backend of swift-metrics that keeps everything in memory and renders it as Prometheus text.
///
/// Handlers of the same label and dimensions share one value. A label becomes the metric's name,
/// dimensions become labels.
final class PrometheusRegistry: MetricsFactory {
  /// What a metric is, as its `# TYPE` line says.
  enum Kind: String { case counter, gauge, summary }

  /// One value with its labels.
  final class Series: Sendable {
    struct Value {
      var sum = 0.0
      var count: UInt64 = 0
    }
    private let value = Mutex(Value())

    func change(_ body: (inout Value) -> Void) { value.withLock { body(&$0) } }
    var current: Value { value.withLock { $0 } }
  }

  private struct Family {
    var kind: Kind
    var series: [String: Series] = [:]
  }

  private let families = Mutex<[String: Family]>([:])

  /// The series of a metric; the first use of a name says what kind it is.
  private func series(_ label: String, _ dimensions: [(String, String)], _ kind: Kind) -> Series {
    let name = Self.name(label)
    let labels = Self.labels(dimensions)
    return families.withLock { families in
      if let known = families[name, default: Family(kind: kind)].series[labels] { return known }
      let series = Series()
      families[name, default: Family(kind: kind)].series[labels] = series
      return series
    }
  }

  /// Adds to a counter.
  func counter(_ label: String, _ dimensions: [(String, String)], _ amount: Double) {
    FloatingPointCounter(label: label, dimensions: dimensions, factory: self)
      .increment(by: amount)
  }

  /// Sets a gauge.
  func gauge(_ label: String, _ dimensions: [(String, String)], _ value: Double) {
    Meter(label: label, dimensions: dimensions, factory: self).set(value)
  }

  /// The text of all, in the order of their names.
  func render() -> String {
    let families = families.withLock { $0 }
    var text = ""
    for (name, family) in families.sorted(by: { $0.key < $1.key }) where !family.series.isEmpty {
      text += "# TYPE \(name) \(family.kind.rawValue)\n"
      for (labels, series) in family.series.sorted(by: { $0.key < $1.key }) {
        let value = series.current
        let braces = labels.isEmpty ? "" : "{\(labels)}"
        if family.kind == .summary {
          text += "\(name)_sum\(braces) \(Self.number(value.sum))\n"
          text += "\(name)_count\(braces) \(value.count)\n"
        } else {
          text += "\(name)\(braces) \(Self.number(value.sum))\n"
        }
      }
    }
    return text
  }

  private static func number(_ value: Double) -> String {
    if let whole = Int64(exactly: value) { return "\(whole)" }
    return value.isNaN ? "NaN" : value.isInfinite ? (value < 0 ? "-Inf" : "+Inf") : "\(value)"
  }

  /// Letters, digits and `_`; a digit doesn't come first.
  private static func name(_ label: String) -> String {
    let name = String(label.map { $0.isASCII && ($0.isLetter || $0.isNumber) ? $0 : "_" })
    return name.first?.isNumber == true ? "_" + name : name
  }

  private static func labels(_ dimensions: [(String, String)]) -> String {
    dimensions.map { "\(name($0.0))=\"\(escaped($0.1))\"" }.joined(separator: ",")
  }

  private static func escaped(_ value: String) -> String {
    var text = ""
    for character in value {
      switch character {
      case "\\": text += "\\\\"
      case "\"": text += "\\\""
      case "\n": text += "\\n"
      default: text.append(character)
      }
    }
    return text
  }

  // MARK: Handlers

  func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
    Handler(series(label, dimensions, .counter))
  }

  func makeFloatingPointCounter(
    label: String, dimensions: [(String, String)]
  ) -> any FloatingPointCounterHandler {
    Handler(series(label, dimensions, .counter))
  }

  func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
    Handler(series(label, dimensions, .gauge))
  }

  func makeRecorder(
    label: String, dimensions: [(String, String)], aggregate: Bool
  ) -> any RecorderHandler {
    // A recorder that doesn't aggregate is a gauge.
    aggregate
      ? Summary(series(label, dimensions, .summary)) : Handler(series(label, dimensions, .gauge))
  }

  func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
    Summary(series(label, dimensions, .summary))
  }

  // A handler holds nothing that would have to be let go.
  func destroyCounter(_ handler: any CounterHandler) {}
  func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) {}
  func destroyMeter(_ handler: any MeterHandler) {}
  func destroyRecorder(_ handler: any RecorderHandler) {}
  func destroyTimer(_ handler: any TimerHandler) {}

  /// One value.
  private final class Handler: CounterHandler, FloatingPointCounterHandler, MeterHandler,
    RecorderHandler
  {
    private let series: Series
    init(_ series: Series) { self.series = series }

    func increment(by amount: Int64) { series.change { $0.sum += Double(amount) } }
    func increment(by amount: Double) { series.change { $0.sum += amount } }
    func decrement(by amount: Double) { series.change { $0.sum -= amount } }
    func reset() { series.change { $0.sum = 0 } }
    func set(_ value: Int64) { series.change { $0.sum = Double(value) } }
    func set(_ value: Double) { series.change { $0.sum = value } }
    func record(_ value: Int64) { set(value) }
    func record(_ value: Double) { set(value) }
  }

  /// A sum and how many it is of; times in seconds.
  private final class Summary: RecorderHandler, TimerHandler {
    private let series: Series
    init(_ series: Series) { self.series = series }

    func record(_ value: Int64) { record(Double(value)) }
    func record(_ value: Double) {
      series.change {
        $0.sum += value
        $0.count += 1
      }
    }
    func recordNanoseconds(_ duration: Int64) { record(Double(duration) / 1e9) }
    func preferDisplayUnit(_ unit: TimeUnit) {}
  }
}
