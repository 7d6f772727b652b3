import Foundation
import Testing

/// `copy --map`: going on after an interruption, a kill, a failure.
@Suite struct MapCommandTests {
  let folder: Folder
  let source: Data

  init() throws {
    folder = try Folder()
    source = pattern(6_000_123)
    try folder.write("source", source)
  }

  private static let slow = [
    "--rate", "8MiB", "--sub-job-size", "16KiB", "--map-interval", "20ms",
  ]

  /// Starts a slow copy and waits until its map says that something is done.
  private func slowCopy(_ destinations: String..., more: [String] = slow) throws -> Command.Running
  {
    let running = try Command.start(
      ["copy", "--map", "map", "source"] + destinations + more, in: folder)
    while running.process.isRunning, try claims().isEmpty { usleep(2000) }
    return running
  }

  /// The finished blocks of the map.
  private func claims() throws -> [Range<Int>] {
    guard let data = try? folder.read("map") else { return [] }
    return String(decoding: data, as: UTF8.self).split(separator: "\n").compactMap { line in
      let words = line.split(separator: " ")
      guard words.count == 3, words[2] == "+", let start = Int(words[0].dropFirst(2), radix: 16),
        let size = Int(words[1].dropFirst(2), radix: 16)
      else { return nil }
      return start..<start + size
    }
  }

  private func checkClaims(_ names: String..., of source: Data? = nil) throws {
    let source = source ?? self.source
    for name in names {
      let copy = try folder.read(name)
      for range in try claims() {
        #expect(copy[range] == source[range], "\(name): \(range) is claimed and wrong")
      }
    }
  }

  private func copy(_ more: String...) throws -> Command.Outcome {
    try Command.run(["copy", "--map", "map", "source"] + more, in: folder)
  }

  @Test func `interrupted, the same command goes on, and says when nothing is left`() throws {
    let running = try slowCopy("a", "b")
    kill(running.process.processIdentifier, SIGINT)
    let outcome = try running.finish()
    #expect(outcome.status == 130)
    #expect(outcome.errors.contains("interrupted"))
    try checkClaims("a", "b")
    #expect(try claims().first?.count ?? 0 < source.count)
    let again = try copy("a", "b")
    #expect(again.status == 0)
    #expect(again.output.hasPrefix("copied 5.7 MiB to 2 destinations, the last "))
    #expect(try folder.read("a") == source && folder.read("b") == source)
    // Another one is brought up alone, and then nothing is left.
    #expect(try copy("a", "b", "c").status == 0)
    #expect(try folder.read("c") == source)
    let last = try copy("a", "b", "c")
    #expect(last.output == "nothing left to do: 3 destinations hold all 5.7 MiB, durable\n")
    #expect(folder.names == ["a", "b", "c", "map", "map.kcopyd", "source"])
  }

  @Test func `killed again and again, what the map claims is there`() throws {
    for round in 0..<4 {
      let running = try slowCopy("a")
      usleep(useconds_t(30_000 * round))
      kill(running.process.processIdentifier, SIGKILL)
      running.process.waitUntilExit()
      try checkClaims("a")
    }
    #expect(try copy("a").status == 0)
    #expect(try folder.read("a") == source)
  }

  @Test(arguments: [[], ["--rescue"], ["--diff"]])
  func `holes stay holes, also in old files and after a kill`(_ more: [String]) throws {
    let data = try ContentCopyTests.sparse(folder, "holes", piece: 1_500_000)
    try folder.write("old", Data(repeating: 0xaa, count: data.count))
    let arguments = ["copy", "--map", "map", "holes", "new", "old"] + more
    let running = try Command.start(arguments + Self.slow, in: folder)
    while running.process.isRunning, try claims().isEmpty { usleep(2000) }
    kill(running.process.processIdentifier, SIGKILL)
    running.process.waitUntilExit()
    try checkClaims("new", "old", of: data)
    let outcome = try Command.run(arguments + ["--json"], in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    #expect(try folder.read("new") == data && folder.read("old") == data)
    let allocated = ["holes", "new", "old"].map { ContentCopyTests.allocated(folder.file($0)) }
    #expect(allocated[1] <= allocated[0])
    #expect(outcome.output.contains("\"bytesAllocated\" : \(allocated[2])"), "\(outcome.output)")
  }

  @Test func `the hash is that of the whole source, also after a kill`() throws {
    let data = try ContentCopyTests.sparse(folder, "holes", piece: 2_500_000)
    let sum = try #require(try ContentCopyTests.tool("sha256sum", [folder.file("holes")]))
    let digest = String(sum.prefix { $0 != " " })
    try folder.write("window", data.dropFirst(5 << 20).prefix(5 << 20))
    let window = try #require(try ContentCopyTests.tool("sha256sum", [folder.file("window")]))
    let arguments = [
      "copy", "--map", "map", "--hash", "sha256", "--hash-window", "5MiB", "--expect", digest,
      "holes", "a", "b",
    ]
    let running = try Command.start(arguments + Self.slow, in: folder)
    while running.process.isRunning, try claims().isEmpty { usleep(2000) }
    kill(running.process.processIdentifier, SIGKILL)
    running.process.waitUntilExit()
    // What is there already, and then all of it, is read again for the hash alone.
    for _ in 0..<2 {
      let outcome = try Command.run(arguments, in: folder)
      #expect(outcome.status == 0, "\(outcome.errors)")
      #expect(outcome.output.contains("\(digest)  holes\n"), "\(outcome.output)")
      #expect(outcome.output.contains("\(window.prefix { $0 != " " })  holes bytes 5242880–"))
    }
    #expect(try folder.read("a") == data && folder.read("b") == data)
    let other = try Command.run(
      arguments.map { $0 == digest ? String(repeating: "0", count: 64) : $0 }, in: folder)
    #expect(other.status == 1 && other.errors.contains("isn't what was expected"))
  }

  @Test(arguments: [[], ["--rescue"]])
  func `what is read back and wrong is written again`(_ more: [String]) throws {
    let arguments = ["copy", "--map", "map", "--verify", "source", "a", "b"] + more
    let first = try Command.run(arguments, in: folder)
    #expect(first.status == 0 && first.output.contains("durable, verified"), "\(first)")
    // Something has changed a sector that the map claims, where no sample is.
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: folder.file("b")))
    try file.seek(toOffset: 1_234_567)
    try file.write(contentsOf: Data([1, 2, 3]))
    try file.close()
    let again = try Command.run(arguments, in: folder)
    #expect(again.status == 0 && again.output.contains("1 sectors written again"), "\(again)")
    #expect(try folder.read("b") == source)
    // Not mended: it is said, taken out of the map, and copied by the next run.
    let damage = try FileHandle(forUpdating: URL(fileURLWithPath: folder.file("a")))
    try damage.seek(toOffset: 1_234_567)
    try damage.write(contentsOf: Data([1, 2, 3]))
    try damage.close()
    let wrong = try Command.run(arguments + ["--verify-retries", "0"], in: folder)
    #expect(wrong.status == 1, "\(wrong)")
    #expect(wrong.errors.contains("'a' holds something else: sectors 2411"), "\(wrong.errors)")
    #expect(try claims() == [0..<2411 * 512, 2412 * 512..<source.count])
    let mended = try Command.run(arguments, in: folder)
    #expect(mended.status == 0, "\(mended)")
    #expect(try folder.read("a") == source)
  }

  @Test(arguments: [[], ["--rescue"]])
  func `zeros found become holes, as without a map`(_ more: [String]) throws {
    let data = try ContentCopyTests.sparse(folder)
    try folder.write("full", data)
    try folder.write("old", Data(repeating: 0xaa, count: data.count))
    let outcome = try Command.run(
      ["copy", "--sparse", "always", "--map", "map", "full", "new", "old"] + more, in: folder)
    #expect(outcome.status == 0 && outcome.output.contains("allocated"), "\(outcome)")
    #expect(try folder.read("new") == data && folder.read("old") == data)
    let plain = try Command.run("copy", "--sparse", "always", "full", "plain", in: folder)
    #expect(plain.status == 0)
    let most = ContentCopyTests.allocated(folder.file("plain"))
    #expect(ContentCopyTests.allocated(folder.file("new")) <= most)
    #expect(ContentCopyTests.allocated(folder.file("old")) < data.count / 2)
    let never = try Command.run(
      ["copy", "--sparse", "never", "--map", "other", "src", "filled"] + more, in: folder)
    #expect(never.status == 0)
    #expect(ContentCopyTests.allocated(folder.file("filled")) >= data.count)
  }

  @Test func `one map, one run`() throws {
    // It holds the map from before this is written on, and won't end by itself.
    let running = try Command.start(
      ["copy", "--map", "map", "source", "a", "--rate", "64KiB", "--sub-job-size", "16KiB"],
      in: folder)
    while running.process.isRunning, !folder.names.contains("map") { usleep(2000) }
    let second = try copy("a")
    #expect(second.status == 2)
    #expect(second.errors == "kcopyd: the map 'map' is in use by another kcopyd\n")
    kill(running.process.processIdentifier, SIGINT)
    #expect(try running.finish().status == 130)
  }

  @Test func `a destination that fails goes on from where it failed`() throws {
    // Writes behind the limit fail, on the long destination only.
    try folder.write("long", Data(count: 12_000_000))
    let script =
      "trap '' XFSZ; ulimit -f 4096; exec '\(Command.path)' copy --map map source long --to 2000"
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/bash")
    process.arguments = ["-c", script]
    process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
    let errors = folder.scratch()
    try Data().write(to: errors)
    process.standardError = try FileHandle(forWritingTo: errors)
    process.standardOutput = FileHandle.nullDevice
    try FileManager.default.removeItem(atPath: folder.file("source"))
    let large = pattern(8_000_000 / 512 * 512)
    try folder.write("source", large)
    try process.run()
    process.waitUntilExit()
    #expect(process.terminationStatus == 1)
    let text = try String(contentsOf: errors, encoding: .utf8)
    #expect(text.contains("0 of 1 destination is complete"), "\(text)")
    #expect(text.contains("File too large"), "\(text)")
    #expect(try copy("long", "--to", "2000").status == 0)
    #expect(try folder.read("long")[2000 * 512..<2000 * 512 + large.count] == large)
  }

  @Test(.enabled(if: program("ddrescue") != nil, "ddrescue isn't installed"))
  func `begun here and finished by ddrescue, and the other way round`() throws {
    let running = try slowCopy("a")
    kill(running.process.processIdentifier, SIGINT)
    #expect(try running.finish().status == 130)
    let before = try claims()
    #expect(!before.isEmpty)
    #expect(try run("ddrescue", "-q", "source", "a", "map") == 0)
    #expect(try folder.read("a") == source)
    #expect(try run("ddrescuelog", "-t", "map") == 0)
    // The record is older than the map now; the map counts for its one destination.
    #expect(try copy("a").output.hasPrefix("nothing left to do"))
    #expect(try copy("a", "b").status == 0)
    #expect(try folder.read("b") == source)

    #expect(try run("ddrescue", "-q", "-s", "1000000", "source", "c", "other") == 0)
    let refused = try Command.run("copy", "--map", "other", "source", "c", "d", in: folder)
    #expect(refused.status == 2 && refused.errors.contains("the map is of one destination"))
    let finished = try Command.run("copy", "--map", "other", "source", "c", in: folder)
    #expect(finished.status == 0)
    #expect(finished.output.contains("the last 4.8 MiB"), "\(finished)")
    #expect(try folder.read("c") == source)
    #expect(try run("ddrescuelog", "-D", "other") == 0)
  }

  /// A folder of its own, which is full from some moment on: by a private mount.
  @Test(.enabled(if: canMount, "no private mounts here"))
  func `a full disk for the map: the copy goes on, and the map is true`() throws {
    let script = """
      mkdir maps && mount -t tmpfs -o size=64k tmpfs maps || exit 99
      '\(Command.path)' copy --map maps/map source a --rate 4MiB --sub-job-size 16KiB \
        --map-interval 20ms & p=$!
      while ! grep -q '+$' maps/map 2>/dev/null; do kill -0 $p || exit 98; sleep 0.01; done
      head -c 100k /dev/zero > maps/hog
      wait $p; echo "status $?"
      cp maps/map full-map
      rm maps/hog
      '\(Command.path)' copy --map maps/map source a; echo "status $?"
      '\(Command.path)' copy --map maps/map source a; echo "status $?"
      cp maps/map map
      """
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/unshare")
    process.arguments = ["-rm", "bash", "-c", script]
    process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
    let output = folder.scratch()
    try Data().write(to: output)
    let handle = try FileHandle(forWritingTo: output)
    process.standardOutput = handle
    process.standardError = handle
    try process.run()
    process.waitUntilExit()
    let text = try String(contentsOf: output, encoding: .utf8)
    let statuses = text.split(separator: "\n").filter { $0.hasPrefix("status") }
    #expect(statuses == ["status 1", "status 0", "status 0"], "\(text)")
    #expect(text.contains("the map couldn't be written: cannot write"), "\(text)")
    #expect(text.contains("No space left on device"), "\(text)")
    #expect(text.contains("nothing left to do"), "\(text)")
    #expect(try folder.read("a") == source)
  }

  static let canMount: Bool = {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/unshare")
    process.arguments = ["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    process.standardError = FileHandle.nullDevice
    guard (try? process.run()) != nil else { return false }
    process.waitUntilExit()
    return process.terminationStatus == 0
  }()

  private func run(_ name: String, _ arguments: String...) throws -> Int32 {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(program(name)))
    process.arguments = arguments
    process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    return process.terminationStatus
  }

  // MARK: Refusals

  @Test func `what doesn't belong to the map is refused, and nothing is written`() throws {
    #expect(try copy("a").status == 0)
    let map = try folder.read("map")
    try folder.write("other", pattern(6_000_123, seed: 5))
    try folder.write("b", Data(count: 6_000_123))
    func refused(_ arguments: String, _ says: String) throws {
      let outcome = try Command.run(
        ["copy"] + arguments.split(separator: " ").map(String.init), in: folder)
      #expect(outcome.status == 2, "\(arguments): \(outcome)")
      #expect(outcome.errors.contains(says), "\(arguments): \(outcome.errors)")
      #expect(outcome.errors.dropLast().contains("\n") == false, "more than one line")
      #expect(try folder.read("map") == map)
      #expect(folder.names == ["a", "b", "map", "map.kcopyd", "other", "source"])
    }
    try refused("--map map other a", "the map is of another source")
    try refused("--map map source a --from 1", "the map is of another part")
    try refused("--map map source a --no-sync", "--no-sync: a map says what is durable")
    try refused("--map map source a --ignore-errors", "use --rescue --fill zeros")
    try refused("--map source source a", "'source' is also to be copied")
    try refused("--map a source a", "'a' is also to be copied")
    try refused("--map other source a", "'other' is no mapfile: line 1: no status line")
    try refused("--map map source a --retries 1", "--retries is for a rescue: give --rescue")
    try refused("--map map source a --rescue --diff", "--diff can't be used with --rescue")
    try refused("--map map source a --rescue --hash sha256", "--hash can't be used with --rescue")
    try refused("--map map source a --clone always", "--clone always: a clone is of a whole file")
    try refused("--map map source a --hash-window 0 --hash sha256", "--hash-window: must be more")
    try refused("--map map source a --rescue --retries -2", "--retries: must be -1 or more")
    try refused("--map map source a --rescue --cluster-size 0", "--cluster-size: must be")
    try refused("--map map source a --rescue --sector-size 0", "--sector-size: must be")
    try refused("--map map source a --rescue --timeout soon", "--timeout: 'soon' is not a time")
    try refused("--map nowhere/map source c", "cannot write beside the map")
    try refused("source a --map-interval 1s", "--map-interval: there is no --map")
    // Another file in the place of the destination; and one that was changed.
    let manager = FileManager.default
    try manager.removeItem(atPath: folder.file("a"))
    try folder.write("a", Data(count: 6_000_123))
    try refused("--map map source a", "'a'")
    // A source that was changed.
    try folder.write("b", source)
    #expect(utimes(folder.file("source"), [timeval(), timeval()]) == 0)
    try refused("--map map source b", "'source' was changed after the map was begun")
  }
}

/// Where a program of another project is.
func program(_ name: String) -> String? {
  ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map { "\($0)/\(name)" }
    .first(where: FileManager.default.isExecutableFile)
}
