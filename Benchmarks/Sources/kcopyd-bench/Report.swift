import FoundationEssentials
import Glibc

/// All that was measured.
struct Report: Codable {
  var size: Int
  var runs: Int
  var machine = Machine()
  var engineReserve: Int
  var cases: [CaseReport] = []
  var goals: [Goal] = []

  var heading: String {
    """
    kcopyd-bench: \(ByteSize(bytes: size)), \(runs) measured round\(runs == 1 ? "" : "s"), \
    \(machine.processors) processors, Linux \(machine.kernel)
    GB/s counts the source's bytes once. "vs limit" and "vs peer" are speeds: 1.00 is as fast
    as the best bare loop (* marks it), or as the best other program.

    """
  }

  var hasFailures: Bool {
    cases.contains { report in
      report.failure != nil
        || report.measurements.contains { $0.outcome == .failed || $0.outcome == .wrongData }
    }
  }

  func write(to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try encoder.encode(self).write(to: URL(filePath: path))
  }

  func find(_ place: Place, _ work: Work) -> CaseReport? {
    cases.first { $0.benchmark.place == place && $0.benchmark.work == work }
  }
}

struct Machine: Codable {
  var processors = sysconf(CInt(_SC_NPROCESSORS_ONLN))
  var kernel = Machine.kernelRelease()

  private static func kernelRelease() -> String {
    var name = utsname()
    guard uname(&name) == 0 else { return "unknown" }
    return withUnsafeBytes(of: name.release) { bytes in
      String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
  }
}

/// A number with so many decimals.
func number(_ value: Double, _ decimals: Int) -> String {
  var scale = 1
  for _ in 0..<decimals { scale *= 10 }
  let scaled = Int((value * Double(scale)).rounded())
  guard decimals > 0 else { return "\(scaled)" }
  let fraction = String(abs(scaled % scale))
  let sign = scaled < 0 ? "-" : ""
  let zeros = String(repeating: "0", count: decimals - fraction.count)
  return "\(sign)\(abs(scaled / scale)).\(zeros)\(fraction)"
}
