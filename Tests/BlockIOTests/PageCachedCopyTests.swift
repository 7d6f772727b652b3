import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

/// Copies within the page cache, as one unit on a thread or on the spot.
@Suite struct PageCachedCopyTests {
  /// A source of 4096 sectors and two destinations of zeros.
  private func withFiles(
    in base: String,
    _ body:
      @escaping @Sendable (IOLoop, _ files: [FileDevice], _ paths: [String]) async throws ->
      Void
  ) async throws {
    try await withTemporaryFolder(in: base) { folder in
      try await onLoop(.threads) { loop in
        let paths = ["source", "one", "two"].map { "\(folder)/\($0)" }
        try put(Pattern("source").bytes(0..<4096), paths[0])
        for path in paths.dropFirst() { try put([UInt8](repeating: 0, count: 4096 * 512), path) }
        let options = FileDevice.Options(isWritable: true, direct: .off)
        let files = try paths.map { try FileDevice.open($0, options, on: loop) }
        try await body(loop, files, paths)
      }
    }
  }

  @Test(arguments: Machine.folders) func copies(folder: String) async throws {
    try await withFiles(in: folder) { loop, files, paths in
      let copy = try #require(
        PageCachedCopy(source: files[0], destinations: [files[1], files[2]]))
      let pages = await (try PagePool(pageCount: 16)).take(16)
      let targets = [
        PageCachedCopy.Target(index: 0, start: 100), PageCachedCopy.Target(index: 1, start: 0),
      ]
      let outcome = await copy.run(10..<1011, to: targets, through: pages.buffer, on: loop)
      #expect(outcome.copied == 1001 && outcome.readFailure == nil)
      #expect(outcome.writeFailures.isEmpty)
      for (path, start) in [(paths[1], 100), (paths[2], 0)] {
        let found = try get(path)
        let copied = Array(found[(start * 512)..<((start + 1001) * 512)])
        #expect(Pattern("source").mismatch(copied, from: 10) == nil)
        #expect(found[..<(start * 512)].allSatisfy { $0 == 0 })
        #expect(found[((start + 1001) * 512)...].prefix(8192).allSatisfy { $0 == 0 })
      }
      #expect(PageCachedCopy(source: files[0], destinations: [MemoryDevice(sectorCount: 1)]) == nil)
    }
  }

  @Test func failures() async throws {
    try await withFiles(in: Machine.folders[0]) { loop, files, paths in
      let readable = FileDevice.Options(isWritable: false, direct: .off)
      let readOnly = try FileDevice.open(paths[1], readable, on: loop)
      let copy = try #require(PageCachedCopy(source: files[0], destinations: [readOnly, files[2]]))
      let pages = await (try PagePool(pageCount: 8)).take(8)
      let targets = [
        PageCachedCopy.Target(index: 0, start: 0), PageCachedCopy.Target(index: 1, start: 0),
      ]
      let outcome = await copy.run(0..<200, to: targets, through: pages.buffer, on: loop)
      #expect(outcome.copied == 0 && outcome.writeFailures.map(\.index) == [0])
      #expect(outcome.writeFailures.first?.failure.sectors == 0..<64)
      #expect(Pattern("source").mismatch(Array(try get(paths[2])[..<(64 * 512)]), from: 0) == nil)

      try resize(paths[0], to: 70 * 512)
      let short = await copy.run(0..<200, to: [targets[1]], through: pages.buffer, on: loop)
      #expect(short.copied == 64 && short.readFailure?.sectors == 70..<128)
    }
  }

  @Test(arguments: Machine.folders) func onTheSpot(folder: String) async throws {
    try await withFiles(in: folder) { _, files, paths in
      let source = IORegion(files[0], sector: 10, count: 64)
      let targets = [
        IORegion(files[1], sector: 100, count: 64), IORegion(files[2], sector: 0, count: 64),
      ]
      for mayWait in [false, true] {
        let isDone = PageCachedCopy.onTheSpot(from: source, to: targets, mayWait: mayWait)
        // A file system may decline; one in memory never does.
        if folder == "/dev/shm" || mayWait { #expect(isDone) }
        guard isDone else { continue }
        let one = Array(try get(paths[1])[(100 * 512)..<(164 * 512)])
        #expect(Pattern("source").mismatch(one, from: 10) == nil)
        let two = Array(try get(paths[2])[..<(64 * 512)])
        #expect(Pattern("source").mismatch(two, from: 10) == nil)
      }
      let memory = IORegion(MemoryDevice(sectorCount: 64), count: 64)
      #expect(!PageCachedCopy.onTheSpot(from: source, to: [memory], mayWait: true))
      #expect(!PageCachedCopy.onTheSpot(from: memory, to: targets, mayWait: true))
      // Ends that are the same file may overlap: that isn't for this way.
      #expect(!PageCachedCopy.onTheSpot(from: source, to: [source], mayWait: true))
      #expect(
        !PageCachedCopy.onTheSpot(from: source, to: [targets[0], targets[0]], mayWait: true))
    }
  }
}
