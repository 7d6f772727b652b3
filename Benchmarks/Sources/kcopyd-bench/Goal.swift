/// What kcopyd wants to reach, and whether it did, by the medians of this run.
struct Goal: Codable {
  var text: String
  /// Nothing when it was not measured.
  var isMet: Bool?
  var measured: String

  static func all(_ report: Report) -> [Goal] {
    var goals: [Goal] = []
    for destinations in [1, 3] {
      let ring = report.find(.direct, .copy(destinations: destinations))
      goals.append(
        timeGoal("O_DIRECT 1→\(destinations)", ring, loops: "bare ring") {
          $0.entrant.hasPrefix("loop ring")
        })
    }
    for place in [Place.tmpfs, .cached] {
      let copies = report.find(place, .copy(destinations: 1))
      goals.append(
        timeGoal("page cache (\(place)) 1→1", copies, loops: "best bare loop") { _ in true })
    }
    for place in [Place.tmpfs, .cached] {
      goals.append(peerGoal(place, report.find(place, .copy(destinations: 3))))
    }
    for place in Place.allCases {
      for depth in [1, 32] {
        goals.append(jobsGoal(place, depth, report.find(place, .jobs(depth: depth))))
      }
    }
    return goals + [memoryGoal(report)]
  }

  /// The library takes at most 1.05 times as long as the best of some bare loops.
  private static func timeGoal(
    _ subject: String, _ report: CaseReport?, loops: String, isLoop: (Measurement) -> Bool
  ) -> Goal {
    let text = "\(subject): library ≤ 1.05 × the time of the \(loops)"
    let loop = report?.fastest { $0.kind == .loop && isLoop($0) }
    guard let library = report?.best(.library)?.median, let limit = loop?.median else {
      return notMeasured(text)
    }
    return Goal(
      text: text, isMet: library <= 1.05 * limit, measured: "\(number(library / limit, 3)) ×")
  }

  private static func peerGoal(_ place: Place, _ report: CaseReport?) -> Goal {
    let text = "page cache (\(place)) 1→3: library ≥ 1.4 × as fast as the best other program"
    let peer = report?.best(.peer)
    guard let library = report?.best(.library)?.median, let peer, let best = peer.median else {
      return notMeasured(text)
    }
    return Goal(
      text: text, isMet: best / library >= 1.4,
      measured: "\(number(best / library, 2)) × (\(peer.entrant))")
  }

  private static func jobsGoal(_ place: Place, _ depth: Int, _ report: CaseReport?) -> Goal {
    let text = "4 KiB jobs (\(place)), depth \(depth): library ≥ 0.8 × the rate of the best loop"
    let limit = report?.best(.loop)
    guard let library = report?.best(.library)?.median, let limit, let best = limit.median else {
      return notMeasured(text)
    }
    return Goal(
      text: text, isMet: best / library >= 0.8,
      measured: "\(number(best / library, 2)) × (\(limit.entrant))")
  }

  private static func memoryGoal(_ report: Report) -> Goal {
    let bound = Double(report.engineReserve) / 1_048_576 + 32
    let text = "peak memory of the command ≤ its reserve + 32 MiB = \(number(bound, 0)) MiB"
    let peaks = report.cases.flatMap(\.measurements)
      .filter { $0.kind == .command && $0.outcome == .measured }.compactMap(\.peakKiB)
    guard let peak = peaks.max() else { return notMeasured(text) }
    let mebibytes = Double(peak) / 1024
    return Goal(
      text: text, isMet: mebibytes <= bound, measured: "\(number(mebibytes, 1)) MiB")
  }

  private static func notMeasured(_ text: String) -> Goal {
    Goal(text: text, isMet: nil, measured: "not measured")
  }
}

/// The goals as text.
struct GoalList {
  private let goals: [Goal]

  init(_ goals: [Goal]) { self.goals = goals }

  var text: String {
    let lines = goals.map { goal in
      let verdict =
        switch goal.isMet {
        case true: "met     "
        case false: "NOT MET "
        case nil: "–       "
        }
      return "\(verdict)  \(goal.text): \(goal.measured)"
    }
    return (["Goals"] + lines).joined(separator: "\n  ")
  }
}
