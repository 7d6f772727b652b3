import Foundation
import Testing

/// That `kcopyd.h` can be used from C and C++, and the library has what it declares.
@Suite(.needsCompiler)
struct HeaderTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  @Test(arguments: [
    ["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++98", "-Wno-long-long"],
    ["-x", "c++", "-std=c++17"],
  ])
  func `compiles on its own and twice over`(options: [String]) throws {
    let source = try folder.file(
      "header.c", Array("#include <kcopyd.h>\n#include <kcopyd.h>\n".utf8))
    let outcome = try Toolbox.run(
      try #require(Toolbox.compiler),
      options + [
        "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only",
        "-I\(Toolbox.headers.path)", source,
      ], in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
  }

  /// The documented interface, letter for letter: other types here, and it doesn't compile.
  @Test
  func `has the classic interface`() throws {
    let source = """
      #include <kcopyd.h>
      static void check(uint64_t sector, struct io_region region, struct block_device *device) {
          sector_t *a = &sector;
          struct block_device **b = &region.bdev;
          sector_t *c = &region.sector, *d = &region.count;
          int (*create)(unsigned int, struct kcopyd_client **) = kcopyd_client_create;
          void (*destroy)(struct kcopyd_client *) = kcopyd_client_destroy;
          void (**fn)(int, unsigned int, void *) = (kcopyd_notify_fn *)0;
          int (*copy)(struct kcopyd_client *, struct io_region *, unsigned int,
                      struct io_region *, unsigned int, kcopyd_notify_fn, void *) = kcopyd_copy;
          int flags[(1 << KCOPYD_IGNORE_ERROR) + (1 << KCOPYD_WRITE_SEQ) == 6 ? 1 : -1];
          struct io_region in_order = {device, 1, 2};
          (void)a; (void)b; (void)c; (void)d; (void)create; (void)destroy; (void)fn; (void)copy;
          (void)flags; (void)in_order;
      }
      void (*used)(uint64_t, struct io_region, struct block_device *) = check;

      """
    try Toolbox.compile(
      try folder.file("classic.c", Array(source.utf8)),
      ["-std=c99", "-c", "-o", folder.path("classic.o")], in: folder)
  }

  @Test(.needsPlainLibrary)
  func `the library has every function`() throws {
    let header = try String(
      contentsOf: Toolbox.headers.appending(path: "kcopyd.h"), encoding: .utf8)
    let names = Set(
      header.matches(of: /^[a-z].*?\b(kcopyd_\w+)\(/.anchorsMatchLineEndings())
        .map { String($0.1) })
    #expect(names.count == 16)
    let uses = names.sorted().map { "    if (\($0) == 0) return 1;" }.joined(separator: "\n")
    let source = "#include <kcopyd.h>\nint main(void) {\n\(uses)\n    return 0;\n}\n"
    let library = try #require(Toolbox.library, "the library hasn't been built")
    // Comparing a function's address with 0 is the point here.
    try Toolbox.compile(
      try folder.file("all.c", Array(source.utf8)),
      ["-std=c99", "-Wno-address", library, "-o", folder.path("all")]
        + ["-Wno-unknown-warning-option", "-Wno-tautological-pointer-compare"], in: folder)
    #expect(try Toolbox.run(folder.path("all"), [], in: folder).status == 0)
  }
}
