/// Somebody who does a case's work, to be timed.
struct Entrant {
  enum Kind: String, Codable {
    /// A bare loop: the limit.
    case loop
    /// Another program.
    case peer
    /// The `kcopyd` command.
    case command
    /// The engine in this process.
    case library

    var isProcess: Bool { self == .peer || self == .command }
  }

  /// What one run took.
  struct Sample {
    var seconds: Double
    /// The peak resident memory of the entrant's processes, together.
    var peakKiB: Int?
  }

  var name: String
  var kind: Kind
  /// Cuts its destinations off instead of overwriting them in place.
  var replacesDestinations = false
  /// Does the work once; `nil` says that the entrant is not available.
  var run: (CaseFiles) async throws(BenchmarkError) -> Sample?
}

/// Somebody who should be there and is not.
struct Absence: Codable {
  var name: String
  var reason: String
}

/// Everybody who takes part in a case.
struct Field {
  var entrants: [Entrant] = []
  var absences: [Absence] = []

  init(for benchmark: Case, tools: Tools, tuning: Tuning) {
    entrants += BareEntrants(benchmark: benchmark, tuning: tuning).all
    if case .copy = benchmark.work {
      for peer in Peer.all where peer.canDo(benchmark) {
        switch tools.find(peer.program) {
        case .some(let path): entrants.append(peer.entrant(at: path))
        case .none: absences.append(Absence(name: peer.name, reason: "not installed"))
        }
      }
      switch tools.kcopyd {
      case .some(let path): entrants.append(Peer.kcopyd.entrant(at: path))
      case .none: absences.append(Absence(name: Peer.kcopyd.name, reason: "not built"))
      }
    }
    entrants.append(Engine.entrant(for: benchmark))
  }
}
