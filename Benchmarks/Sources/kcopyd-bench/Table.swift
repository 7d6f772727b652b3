/// A case's result as text.
struct Table {
  private let report: CaseReport

  init(_ report: CaseReport) { self.report = report }

  private static let header = [
    "entrant", "median s", "min – max s", "GB/s", "vs limit", "vs peer", "peak MiB",
  ]

  var text: String {
    var rows = [Self.header]
    var remarks: [String] = []
    if let failure = report.failure { remarks.append("the case failed: \(failure)") }
    for measurement in report.measurements {
      switch measurement.outcome {
      case .measured where !measurement.seconds.isEmpty:
        rows.append(row(measurement))
      case .measured, .unavailable:
        remarks.append("\(measurement.entrant): not available")
      case .failed:
        remarks.append("\(measurement.entrant): FAILED: \(measurement.reason ?? "")")
      case .wrongData:
        remarks.append("\(measurement.entrant): WRONG DATA: \(measurement.reason ?? "")")
      }
    }
    if let floor = report.peakFloorKiB {
      remarks.append("a peak below \(number(Double(floor) / 1024, 1)) MiB cannot be told")
    }
    remarks += report.absences.map { "\($0.name): \($0.reason)" }

    let length = ByteSize(bytes: report.benchmark.length)
    let lines = ["\(report.benchmark.name) (\(length))"] + Self.aligned(rows)
    return (lines + remarks).joined(separator: "\n  ") + "\n"
  }

  private func row(_ measurement: Measurement) -> [String] {
    guard let median = measurement.median, let range = measurement.range else { return [] }
    let limit = report.best(.loop)
    let isLimit = measurement.entrant == limit?.entrant
    return [
      measurement.entrant + (isLimit ? " *" : ""),
      number(median, 4),
      "\(number(range.lowerBound, 4)) – \(number(range.upperBound, 4))",
      number(Double(report.benchmark.length) / median / 1e9, 2),
      speed(median, against: limit),
      speed(median, against: report.best(.peer)),
      measurement.peakKiB.map { number(Double($0) / 1024, 1) } ?? "",
    ]
  }

  private func speed(_ median: Double, against other: Measurement?) -> String {
    other?.median.map { number($0 / median, 2) } ?? ""
  }

  /// The first column to the left, numbers to the right.
  private static func aligned(_ rows: [[String]]) -> [String] {
    let widths = header.indices.map { column in
      rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
    }
    return rows.map { row in
      let cells = zip(row, widths).enumerated().map { column, cell in
        let padding = String(repeating: " ", count: cell.1 - cell.0.count)
        return column == 0 ? cell.0 + padding : padding + cell.0
      }
      return cells.joined(separator: "  ")
    }
  }
}
