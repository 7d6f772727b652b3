import ArgumentParser
import FoundationEssentials
import Glibc

@main
struct Command: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kcopyd-bench",
    abstract: "Compares kcopyd with bare loops – the limit – and with other programs.",
    discussion: """
      Every case is run by all entrants in turn, round after round, and every destination is \
      verified. What is not as fast as it should be is said at the end as it is.
      """)

  @Option(help: "Bytes of a copy, such as 512MiB.")
  var size = ByteSize(bytes: 1 << 30)

  @Option(help: "Measured rounds.")
  var runs = 7

  @Option(
    parsing: .upToNextOption,
    help: "Only these: patterns for a case (tmpfs-1to3) or an entrant of it (direct-*/dd*).")
  var only: [String] = []

  @Option(help: "A folder on a disk.")
  var disk = "/var/tmp"

  @Option(help: "A folder on a tmpfs.")
  var tmpfs = "/dev/shm"

  @Option(help: "Write everything that was measured to this file.")
  var json: String?

  @Option(help: "The kcopyd command. Default: beside this program, or the package's release build.")
  var kcopyd: String?

  @Flag(help: "List the cases and their entrants.")
  var list = false

  @OptionGroup(title: "Bare loops")
  var tuning: Tuning

  func validate() throws {
    guard runs > 0 else { throw ValidationError("--runs: at least 1") }
    guard size.bytes >= 1 << 20, size.bytes % 4096 == 0 else {
      throw ValidationError("--size: at least 1MiB, a multiple of 4KiB")
    }
    if let kcopyd, !Tools.isProgram(kcopyd) {
      throw ValidationError("--kcopyd: \(kcopyd) is not a program")
    }
  }

  func run() async throws {
    let selection = Selection(patterns: only)
    let tools = Tools(kcopyd: kcopyd)
    if list { return printList(selection, tools) }

    let signals = TemporaryFolder.removeAllOnSignals()
    defer {
      TemporaryFolder.removeAll()
      for signal in signals { signal.cancel() }
    }
    try prove()

    var report = Report(size: size.bytes, runs: runs, engineReserve: Engine.reserve)
    print(report.heading)
    for benchmark in Case.all(size: size.bytes) {
      let field = selection.filter(Field(for: benchmark, tools: tools, tuning: tuning), benchmark)
      guard !field.entrants.isEmpty else { continue }
      let caseReport = await measure(benchmark, field)
      print(Table(caseReport).text)
      // A long run is watched: every case is seen when it is done, in a file too.
      fflush(nil)
      report.cases.append(caseReport)
    }
    report.goals = Goal.all(report)
    print(GoalList(report.goals).text)
    if let json { try report.write(to: json) }
    // A shortfall is a result. A copy that failed, or was wrong, is not.
    if report.hasFailures { throw ExitCode.failure }
  }

  /// Refuses to measure with a verification that sees nothing.
  private func prove() throws(BenchmarkError) {
    let folder = try TemporaryFolder(in: tmpfs)
    defer { folder.remove() }
    try Verification.provesItself(in: folder)
  }

  private func measure(_ benchmark: Case, _ field: Field) async -> CaseReport {
    var report = CaseReport(benchmark: benchmark, absences: field.absences)
    do {
      let files = try CaseFiles(
        benchmark, in: benchmark.place == .tmpfs ? tmpfs : disk,
        withReplaced: field.entrants.contains { $0.replacesDestinations })
      defer { files.folder.remove() }
      if field.entrants.contains(where: \.kind.isProcess) {
        report.peakFloorKiB = try Processes.nothing.run(in: files.folder).peakKiB
      }
      var runner = Runner(entrants: field.entrants, files: files, rounds: runs)
      do {
        try await runner.run()
      } catch {
        report.failure = error.description
      }
      report.measurements = runner.measurements
    } catch {
      report.failure = error.description
    }
    return report
  }

  private func printList(_ selection: Selection, _ tools: Tools) {
    for benchmark in Case.all(size: size.bytes) {
      let field = selection.filter(Field(for: benchmark, tools: tools, tuning: tuning), benchmark)
      for entrant in field.entrants { print("\(benchmark.name)/\(entrant.name)") }
      for absence in field.absences {
        print("\(benchmark.name)/\(absence.name): \(absence.reason)")
      }
    }
  }
}

/// What `--only` asks for.
struct Selection {
  var patterns: [String]

  /// A case that matches takes part with all entrants, else those that match with it.
  func filter(_ field: Field, _ benchmark: Case) -> Field {
    guard !patterns.isEmpty, !matches(benchmark.name) else { return field }
    var chosen = field
    chosen.entrants = field.entrants.filter { matches("\(benchmark.name)/\($0.name)") }
    chosen.absences = field.absences.filter { matches("\(benchmark.name)/\($0.name)") }
    return chosen
  }

  private func matches(_ name: String) -> Bool {
    // With FNM_PATHNAME a `*` ends at the slash: `tmpfs-*` is no pattern for an entrant.
    patterns.contains { fnmatch($0, name, FNM_PATHNAME) == 0 }
  }
}
