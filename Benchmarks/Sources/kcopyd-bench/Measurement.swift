/// What one entrant did in one case.
struct Measurement: Codable {
  enum Outcome: String, Codable {
    case measured
    case unavailable
    case failed
    /// It was fast at something else: its destinations do not hold the source's bytes.
    case wrongData
  }

  var entrant: String
  var kind: Entrant.Kind
  var outcome = Outcome.measured
  var reason: String?
  /// Of the measured rounds, in their order.
  var seconds: [Double] = []
  var peakKiB: Int?

  init(_ entrant: Entrant) {
    self.entrant = entrant.name
    kind = entrant.kind
  }

  var median: Double? {
    guard outcome == .measured, !seconds.isEmpty else { return nil }
    let sorted = seconds.sorted()
    let middle = sorted.count / 2
    return sorted.count.isMultiple(of: 2)
      ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
  }

  var range: ClosedRange<Double>? {
    guard let low = seconds.min(), let high = seconds.max() else { return nil }
    return low...high
  }
}

/// What came of a case.
struct CaseReport: Codable {
  var benchmark: Case
  var measurements: [Measurement] = []
  var absences: [Absence] = []
  /// No process's peak of memory is told below this: what it inherits when it is forked.
  var peakFloorKiB: Int?
  /// Why the case could not be run at all.
  var failure: String?

  func best(_ kind: Entrant.Kind) -> Measurement? {
    fastest { $0.kind == kind }
  }

  func fastest(where isEligible: (Measurement) -> Bool) -> Measurement? {
    measurements.filter { $0.median != nil && isEligible($0) }
      .min { ($0.median ?? .infinity) < ($1.median ?? .infinity) }
  }
}
