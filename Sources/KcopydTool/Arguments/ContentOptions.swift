import ArgumentParser
import BlockIO
import Imaging
import Kcopyd

/// What becomes of holes and zeros.
enum SparseChoice: String, CaseIterable, ExpressibleByArgument {
  case auto, never, always
}

/// Whether files share their blocks with the source.
enum CloneChoice: String, CaseIterable, ExpressibleByArgument {
  case auto, never, always
}

extension HashAlgorithm: ExpressibleByArgument {}

/// The options of a copy that have to do with its content.
struct ContentOptions: ParsableArguments {
  @Option(
    help: """
      Zeros: auto (holes stay holes; zeros found become holes in new files), always (also in \
      destinations that exist), never (everything is allocated).
      """)
  var sparse: SparseChoice = .auto

  @Option(
    help: """
      Share blocks with the source: auto (whole files to new files, where the file system can), \
      always (or refuse), never.
      """)
  var clone: CloneChoice = .auto

  @Flag(help: "Read destinations first and write only what differs.")
  var diff = false

  @Option(help: "Hash the source while it is copied: sha256, sha384, sha512, blake2b.")
  var hash: HashAlgorithm?

  @Option(help: "Also hash every window of that size, such as 1GiB.")
  var hashWindow: String?

  @Option(help: ArgumentHelp("The hash that the source must have.", valueName: "hex"))
  var expect: String?

  @Flag(help: "Read destinations back past the cache, and write again what differs.")
  var verify = false

  @Option(help: "How often what differs is written and checked again.")
  var verifyRetries: Int = 1

  /// What the options come to.
  func makeRequest(_ options: WritingOptions, isWhole: Bool) throws(Refusal) -> ContentRequest {
    let window = try hashWindow.map { text throws(Refusal) in
      try Sector(text, option: "--hash-window")
    }
    if window == .zero { throw Refusal("--hash-window: must be more than 0") }
    if window != nil, hash == nil { throw Refusal("--hash-window needs --hash") }
    let expected = try expect.map { text throws(Refusal) in try digest(text) }
    if verify, options.noSync {
      throw Refusal("--verify reads what is durable: it can't be used with --no-sync")
    }
    guard (0...100).contains(verifyRetries) else {
      throw Refusal("--verify-retries: must be 0 to 100")
    }
    let mayClone = isWhole && hash == nil && !diff && sparse == .auto
    if clone == .always, !mayClone {
      throw Refusal(
        "--clone always: a clone is of a whole file and isn't read; it can't be used with"
          + " --from, --to, --count, --hash, --diff, --sparse, --map or --rescue")
    }
    return ContentRequest(
      sparse: sparse, clone: mayClone ? clone : .never, differencesOnly: diff, hash: hash,
      window: window, expected: expected, verifyRetries: verify ? verifyRetries : nil)
  }

  /// Refuses what a rescue doesn't do.
  func refuseWithRescue() throws(Refusal) {
    if diff {
      throw Refusal("--diff can't be used with --rescue: a rescue writes what it could read")
    }
    if hash != nil {
      throw Refusal(
        "--hash can't be used with --rescue: a rescue doesn't read in order; hash the copy after it"
      )
    }
  }

  private func digest(_ text: String) throws(Refusal) -> String {
    guard let hash else { throw Refusal("--expect needs --hash") }
    let digits = text.lowercased()
    guard
      digits.utf8.allSatisfy({
        UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0
          || UInt8(ascii: "a")...UInt8(ascii: "f") ~= $0
      }),
      digits.utf8.count == 2 * hash.digestByteCount
    else {
      throw Refusal(
        "--expect: '\(text)' is no \(hash.rawValue) hash of \(2 * hash.digestByteCount)"
          + " hexadecimal digits")
    }
    return digits
  }
}

/// What is wanted of a copy's content.
struct ContentRequest {
  var sparse = SparseChoice.auto
  var clone = CloneChoice.auto
  var differencesOnly = false
  var hash: HashAlgorithm?
  var window: Sector?
  var expected: String?
  /// nil: nothing is read back.
  var verifyRetries: Int?

  /// What hashes the source while it is copied.
  func makeHash(of source: Source, on loop: IOLoop) -> SourceHash? {
    hash.map { SourceHash($0, byteCount: source.byteCount, window: window, on: loop) }
  }

  /// From this length on zeros in data are zeroed by command where the destination isn't new.
  private static let shortestRun = Sector(holding: 64 << 10)

  /// What the engine is told, of a source with these holes and destinations of which `blank` are
  /// new.
  func content(
    holes: RangeSet<Sector>, blank: Set<Int>, count: Int, observer: (any CopyObserver)?
  ) -> CopyContent {
    var content = CopyContent()
    content.holes = holes
    content.differencesOnly = differencesOnly
    content.observer = observer
    content.mayUnmap = sparse != .never
    if sparse != .never {
      content.blankDestinations = blank
      // One pass over memory finds zeros; in existing files commands for them cost more.
      let areNew = blank.count == count
      if sparse == .always || areNew || differencesOnly {
        content.shortestZeroRun = Self.shortestRun
      }
    }
    return content
  }
}
