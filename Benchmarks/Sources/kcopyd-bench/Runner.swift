/// Runs the entrants of one case against each other.
///
/// They take turns, a round each, in an order that rotates from round to round: what the machine
/// does meanwhile then happens to all of them.
struct Runner {
  let files: CaseFiles
  let rounds: Int
  private let entrants: [Entrant]
  private(set) var measurements: [Measurement]

  init(entrants: [Entrant], files: CaseFiles, rounds: Int) {
    self.entrants = entrants
    self.files = files
    self.rounds = rounds
    measurements = entrants.map(Measurement.init)
  }

  /// Round 0 is not measured. Around it and around the last round destinations are spoiled before
  /// and verified after, entrant by entrant: they share their files.
  mutating func run() async throws(BenchmarkError) {
    for round in 0...rounds {
      let isVerified = round == 0 || round == rounds
      for turn in entrants.indices {
        let index = (turn + round) % entrants.count
        guard measurements[index].outcome == .measured else { continue }
        try await runOnce(index, round: round, isVerified: isVerified)
      }
    }
  }

  private mutating func runOnce(
    _ index: Int, round: Int, isVerified: Bool
  ) async throws(BenchmarkError) {
    let entrant = entrants[index]
    if isVerified {
      try files.spoil(for: entrant, seed: UInt64(round * entrants.count + index))
    }
    try files.settle()
    do {
      guard let sample = try await entrant.run(files) else {
        measurements[index].outcome = .unavailable
        return
      }
      if round > 0 { measurements[index].seconds.append(sample.seconds) }
      if let peak = sample.peakKiB {
        measurements[index].peakKiB = max(peak, measurements[index].peakKiB ?? 0)
      }
      if isVerified { try files.verify(entrant) }
    } catch {
      measurements[index].outcome = if case .wrongData = error { .wrongData } else { .failed }
      measurements[index].reason = error.description
    }
  }
}
