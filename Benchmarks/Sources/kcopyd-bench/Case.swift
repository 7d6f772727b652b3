/// Where the files of a case lie, and how they are opened.
enum Place: String, CaseIterable, Codable {
  case tmpfs
  /// A disk's file system, everything in the page cache.
  case cached
  /// A disk's file system, opened with `O_DIRECT`.
  case direct

  var isDirect: Bool { self == .direct }
}

/// What is done with the files.
enum Work: Hashable, Codable {
  /// The whole source goes to this many destinations, as fast as it will.
  case copy(destinations: Int)
  /// Copies of 4 KiB to one destination, scattered over the region, so many under way at once.
  case jobs(depth: Int)

  static let jobSize = 4096
}

/// One question: some work in some place. Every entrant answers it with the same files.
struct Case: Codable {
  var place: Place
  var work: Work
  var length: Int

  var name: String {
    switch work {
    case .copy(let destinations): "\(place.rawValue)-1to\(destinations)"
    case .jobs(let depth): "\(place.rawValue)-4k-depth\(depth)"
    }
  }

  var destinationCount: Int {
    switch work {
    case .copy(let destinations): destinations
    case .jobs: 1
    }
  }

  /// All cases, for a copy of `size` bytes.
  static func all(size: Int) -> [Case] {
    var cases: [Case] = []
    for place in Place.allCases {
      for destinations in [1, 3] {
        cases.append(Case(place: place, work: .copy(destinations: destinations), length: size))
      }
    }
    for place in Place.allCases {
      for depth in [1, 32] {
        let length = regionOfJobs(size: size, place: place, depth: depth)
        cases.append(Case(place: place, work: .jobs(depth: depth), length: length))
      }
    }
    return cases
  }

  /// Small jobs on a disk are slow, one at a time slower still: their regions shrink so that every
  /// case takes about as long as a copy.
  private static func regionOfJobs(size: Int, place: Place, depth: Int) -> Int {
    let share =
      switch (place, depth) {
      case (.direct, 1): 64
      case (.direct, _): 16
      default: 4
      }
    let jobs = max(size / share / Work.jobSize, 256)
    return jobs * Work.jobSize
  }
}
