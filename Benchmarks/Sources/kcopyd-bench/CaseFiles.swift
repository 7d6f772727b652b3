/// The files of one case: a source, destinations to be overwritten in place, and a second set of
/// destinations for those who do not overwrite in place but cut the file off first – so that what
/// they leave on the disk does not slow down the others.
struct CaseFiles {
  let benchmark: Case
  let folder: TemporaryFolder
  let source: String
  let inPlaceDestinations: [String]
  private let replacedDestinations: [String]

  private static let sourceSeed: UInt64 = 0x6b63_6f70_7964

  init(_ benchmark: Case, in parent: String, withReplaced: Bool) throws(BenchmarkError) {
    self.benchmark = benchmark
    folder = try TemporaryFolder(in: parent)
    let folder = folder
    source = folder.path("source")
    inPlaceDestinations = (1...benchmark.destinationCount).map { folder.path("destination-\($0)") }
    replacedDestinations =
      withReplaced ? (1...benchmark.destinationCount).map { folder.path("replaced-\($0)") } : []
    do {
      try createAll()
    } catch {
      folder.remove()
      throw error
    }
  }

  private func createAll() throws(BenchmarkError) {
    for (index, path) in allPaths.enumerated() {
      let file = try Descriptor(path, .create)
      let seed = Self.sourceSeed + UInt64(index)
      try TestData(seed: seed).write(to: file, length: benchmark.length)
    }
    try settle()
  }

  private var allPaths: [String] { [source] + inPlaceDestinations + replacedDestinations }

  func destinations(of entrant: Entrant) -> [String] {
    entrant.replacesDestinations ? replacedDestinations : inPlaceDestinations
  }

  func open(_ path: String) throws(BenchmarkError) -> Descriptor {
    try Descriptor(path, direct: benchmark.place.isDirect)
  }

  /// Brings the files into the state every run starts from: nothing dirty, and for `O_DIRECT`
  /// nothing cached.
  func settle() throws(BenchmarkError) {
    guard benchmark.place != .tmpfs else { return }
    try Descriptor(source).syncFileSystem()
    guard benchmark.place.isDirect else { return }
    for path in allPaths { try Descriptor(path).dropFromCache() }
  }

  /// Overwrites an entrant's destinations, so that what is found there later is its own work.
  func spoil(for entrant: Entrant, seed: UInt64) throws(BenchmarkError) {
    for path in destinations(of: entrant) {
      let data = TestData(seed: Self.sourceSeed &+ 0x1_0000 &+ seed)
      try data.write(to: open(path), length: benchmark.length)
    }
  }

  func verify(_ entrant: Entrant) throws(BenchmarkError) {
    let source = try open(source)
    for path in destinations(of: entrant) {
      try Verification.compare(try open(path), with: source, length: benchmark.length)
    }
  }
}
