import Foundation
import Testing

@Suite struct CopyCommandTests {
  let folder: Folder
  let source: Data

  init() throws {
    folder = try Folder()
    source = pattern(3_000_000 / 512 * 512)
    try folder.write("source", source)
  }

  @Test(arguments: [["--direct", "off"], ["--backend", "threads"], ["--sub-job-size", "7s"]])
  func `copies to several new files`(_ options: [String]) throws {
    let outcome = try Command.run(["copy", "source", "a", "b", "c"] + options, in: folder)
    #expect(outcome.status == 0)
    #expect(outcome.output.hasPrefix("copied 2.9 MiB to 3 destinations in "))
    #expect(outcome.output.hasSuffix(", durable\n"))
    for name in ["a", "b", "c"] { #expect(try folder.read(name) == source) }
  }

  @Test func `a source of any size is copied to its last byte`() throws {
    for size in [1, 511, 513, 4097, 1_048_577] {
      let data = pattern(size)
      try folder.write("odd", data)
      #expect(try Command.run("copy", "odd", "copy-\(size)", in: folder).status == 0)
      #expect(try folder.read("copy-\(size)") == data)
    }
  }

  @Test func `only the named part of a destination is written`() throws {
    let old = pattern(source.count + 9 * 512, seed: 2)
    try folder.write("old", old)
    let outcome = try Command.run(
      "copy", "source", "old", "--from", "4KiB", "--to", "3", "--count", "100s", in: folder)
    #expect(outcome.status == 0)
    var expected = old
    expected.replaceSubrange(
      3 * 512..<103 * 512, with: source[4096..<4096 + 100 * 512])
    #expect(try folder.read("old") == expected)
  }

  @Test func `the result as JSON`() throws {
    let outcome = try Command.run("copy", "source", "a", "--json", in: folder)
    #expect(outcome.status == 0)
    let json = try #require(
      try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any])
    #expect(json["ending"] as? String == "complete")
    #expect(json["bytes"] as? Int == source.count)
    let destination = try #require((json["destinations"] as? [[String: Any]])?.first)
    #expect(destination["bytesWritten"] as? Int == source.count)
    #expect(destination["durable"] as? Bool == true)
    #expect((destination["missing"] as? [Any])?.isEmpty == true)
  }

  @Test func `quiet says nothing, no-sync says so, explain says how`() throws {
    let quiet = try Command.run("copy", "source", "a", "--quiet", in: folder)
    #expect(quiet.output.isEmpty && quiet.errors.isEmpty)
    let unsynced = try Command.run("copy", "source", "b", "--no-sync", in: folder)
    #expect(unsynced.output.hasSuffix(", not synced\n"))
    let explained = try Command.run("copy", "source", "c", "--explain", in: folder)
    for word in ["source ", "dest ", "backend ", "way ", "memory "] {
      #expect(explained.errors.contains(word))
    }
  }

  @Test func `a reader that has gone away stops nothing`() throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: Command.path)
    process.arguments = ["copy", "source", "a"]
    process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try pipe.fileHandleForReading.close()
    try process.run()
    process.waitUntilExit()
    #expect(process.terminationReason == .exit)
    #expect(process.terminationStatus == 0)
    #expect(try folder.read("a") == source)
  }

  /// Starts a copy that is slow enough to be met half-way.
  private func slowCopy(_ more: String...) throws -> Command.Running {
    let running = try Command.start(
      ["copy", "source", "a", "--json", "--rate", "1MiB", "--sub-job-size", "16KiB"] + more,
      in: folder)
    // The destination is made when everything is ready, and the first piece goes at once.
    while running.process.isRunning {
      let size = try? folder.read("a").contains { $0 != 0 }
      if size == true { break }
      usleep(2000)
    }
    return running
  }

  private func account(_ outcome: Command.Outcome) throws -> [String: Any] {
    try #require(
      try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any])
  }

  @Test(arguments: [SIGINT, SIGTERM, SIGHUP])
  func `interrupted, it says truly what is there`(_ number: Int32) throws {
    let running = try slowCopy()
    kill(running.process.processIdentifier, number)
    let outcome = try running.finish()
    #expect(outcome.status == 130)
    let account = try account(outcome)
    #expect(account["ending"] as? String == "interrupted")
    let destination = try #require((account["destinations"] as? [[String: Any]])?.first)
    let missing = try #require(destination["missing"] as? [[String: Int]])
    #expect(!missing.isEmpty)
    let copy = try folder.read("a")
    #expect(copy.count == source.count)
    var expected = source
    for range in missing {
      let start = range["sector", default: 0] * 512
      let end = min(source.count, start + range["count", default: 0] * 512)
      expected.replaceSubrange(start..<end, with: copy[start..<end])
    }
    #expect(copy == expected, "a sector that isn't listed as missing is wrong")
    #expect(
      destination["bytesWritten"] as? Int
        == source.count - missing.reduce(0) { $0 + $1["count", default: 0] * 512 })
  }

  @Test func `what the caller ignores stays ignored`() throws {
    let script = "trap '' HUP; exec '\(Command.path)' copy source a --rate 4MiB"
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.arguments = ["-c", script]
    process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    while process.isRunning, (try? folder.read("a").contains { $0 != 0 }) != true { usleep(2000) }
    kill(process.processIdentifier, SIGHUP)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    #expect(try folder.read("a") == source)
  }

  @Test func `a source that shrinks is an error with its place`() throws {
    let running = try slowCopy()
    #expect(truncate(folder.file("source"), 1_000_000) == 0)
    let outcome = try running.finish()
    #expect(outcome.status == 1)
    let errors = try #require(try account(outcome)["readErrors"] as? [[String: Any]])
    #expect((errors.first?["reason"] as? String)?.contains("has shrunk") == true)
    // What was said to be written is what had been there.
    #expect(try folder.read("a").prefix(64 << 10) == source.prefix(64 << 10))
  }

  @Test func `a shrunk source with ignore-errors becomes zeros, exactly there`() throws {
    let running = try slowCopy("--ignore-errors")
    #expect(truncate(folder.file("source"), 1_000_448) == 0)
    let outcome = try running.finish()
    #expect(outcome.status == 1)
    let copy = try folder.read("a")
    #expect(copy.prefix(1_000_448) == source.prefix(1_000_448))
    #expect(copy.dropFirst(1_000_448).allSatisfy { $0 == 0 })
  }

  @Test func `the demo works and leaves nothing`() throws {
    let outcome = try Command.run("demo", "--no-sync", in: folder)
    #expect(outcome.status == 0)
    #expect(outcome.output.contains("copied 256.0 MiB to 3 destinations"))
    #expect(outcome.output.components(separatedBy: ": the same\n").count == 4)
    #expect(folder.names == ["source"])
  }
}
