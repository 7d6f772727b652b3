import Foundation
import Testing

/// The examples, as they would be built and run by a reader: programs of their own that know
/// nothing of Swift, with the library that was built along with these tests.
@Suite(.needsPlainLibrary)
struct ExampleTests {
  let folder: TemporaryFolder
  let library: String
  let bytes = pattern(3_000_001)

  init() throws {
    folder = try TemporaryFolder()
    library = try #require(Toolbox.library, "the library hasn't been built")
  }

  /// Runs a copying program with one destination that is there, longer, and one that isn't.
  private func check(
    _ program: String, _ arguments: [String], environment: [String: String] = [:]
  ) throws {
    let source = try folder.file("source", bytes)
    let longer = try folder.file("longer", pattern(4_000_000, seed: 2))
    let run = { (paths: [String]) in
      try Toolbox.run(program, arguments + paths, in: folder, environment: environment)
    }
    let outcome = try run([source, longer, folder.path("new")])
    #expect(outcome.errors == "")
    #expect(outcome.output == "1 notification: read_err 0, write_err 0x0\n")
    #expect(outcome.status == 0)
    #expect(try folder.bytes("longer") == bytes)
    #expect(try folder.bytes("new") == bytes)

    let missing = try run([folder.path("missing"), folder.path("other")])
    #expect(missing.status == 1)
    #expect(missing.errors.contains("No such file or directory"))
  }

  @Test(.needsCompiler)
  func `C`() throws {
    try Toolbox.compile(
      Toolbox.examples.appending(path: "c/copy.c").path,
      ["-std=c99", "-D_XOPEN_SOURCE=700", library, "-o", folder.path("copy")], in: folder)
    try check(folder.path("copy"), [])
  }

  @Test(.needsCompiler, .needsMake)
  func `C by its Makefile`() throws {
    for name in ["copy.c", "Makefile"] {
      try FileManager.default.copyItem(
        at: Toolbox.examples.appending(path: "c/\(name)"), to: folder.url.appending(path: name))
    }
    let outcome = try Toolbox.run(
      try #require(Toolbox.make),
      [
        "CC=\(try #require(Toolbox.compiler))", "LIBRARY=\(library)",
        "INCLUDE=\(Toolbox.headers.path)",
      ], in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    try check(folder.path("copy"), [])
  }

  @Test(.needsPython)
  func `Python`() throws {
    try check(
      try #require(Toolbox.python), [Toolbox.examples.appending(path: "python/copy.py").path],
      environment: ["KCOPYD_LIBRARY": library])
  }
}
