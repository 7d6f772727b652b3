import Foundation
import Testing

/// Wrong use: one clear line, status 2, nothing written.
@Suite struct RefusalTests {
  struct Wrong: Sendable, CustomTestStringConvertible {
    let arguments: [String]
    let says: String

    init(_ arguments: String, _ says: String) {
      self.arguments = arguments.split(separator: " ").map(String.init)
      self.says = says
    }

    var testDescription: String { arguments.joined(separator: " ") }
  }

  static let cases = [
    Wrong("copy", "Missing expected argument '<source>'"),
    Wrong("copy source", "no destination"),
    Wrong("copy missing old", "cannot open 'missing': No such file or directory"),
    Wrong("copy folder old", "cannot open 'folder': Is a directory"),
    Wrong("copy source folder", "cannot open 'folder': Is a directory"),
    Wrong("copy pipe old", "'pipe': neither a regular file nor a block device"),
    Wrong("copy source pipe", "'pipe': neither a regular file nor a block device"),
    Wrong("copy /dev/null old", "neither a regular file nor a block device"),
    Wrong("copy empty new", "'empty' is empty"),
    Wrong("copy source source", "'source' is the source itself"),
    Wrong("copy source link", "'link' is the source itself"),
    Wrong("copy source hard", "'hard' is the source itself"),
    Wrong("copy source old ./old", "'./old' and 'old' are the same destination"),
    Wrong("copy source new new", "cannot create 'new': File exists (given twice?)"),
    Wrong("copy source small", "'small' is too small: it has 512 bytes, 8192 are needed"),
    Wrong("copy source old --to 100000", "'old' is too small"),
    Wrong("copy source old --from 16", "sector 16 is behind the end of 'source'"),
    Wrong("copy source old --from 1 --count 16", "behind the end of 'source'"),
    Wrong("copy source old --count 17", "behind the end of 'source'"),
    Wrong("copy source old --count 0", "--count: must be more than 0"),
    Wrong("copy source old --count 18446744073709551615", "too large"),
    Wrong("copy source old --count 99999999999999999999", "too large"),
    Wrong("copy source old --to 36028797018963967", "too large"),
    Wrong("copy source old --to 18014398509481983", "beyond what can be addressed"),
    Wrong("copy source old --from 18014398509481983", "behind the end"),
    Wrong("copy source old --from 3q", "unknown unit 'q'"),
    Wrong("copy source old --from x", "not a number"),
    Wrong("copy source old --from=-1", "not a number"),
    Wrong("copy source old --from 1kB", "not a whole number of sectors"),
    Wrong("copy source old --pages 0", "--pages: must be"),
    Wrong("copy source old --pages 255", "a reserve of 255 pages is below one sub-job (256 pages)"),
    Wrong("copy source old --pages x", "The value 'x' is invalid for '--pages <pages>'"),
    Wrong("copy source old --sub-job-size 0", "--sub-job-size: must be"),
    Wrong("copy source old --sub-job-size 2MiB", "--sub-job-size: must be"),
    Wrong("copy source old --throttle 101", "--throttle: must be 0 to 100"),
    Wrong("copy source old --rate 0", "--rate: must be more than 0"),
    Wrong("copy source old --rate fast", "--rate: 'fast' is not a number"),
    Wrong("copy source old --backend none", "'none' is invalid for '--backend"),
    Wrong("copy source old --direct maybe", "'maybe' is invalid for '--direct"),
    Wrong("copy source nowhere/new", "cannot create 'nowhere/new': No such file or directory"),
    Wrong("copy source new nowhere/new", "cannot create 'nowhere/new'"),
    Wrong("copy odd old", "the end of 'odd' is no whole sector, and 'old' goes on behind it"),
    Wrong("copy source", "no destination"),
    Wrong("zero", "Missing expected argument '<dest> ...'"),
    Wrong("zero missing", "cannot open 'missing'"),
    Wrong("zero old old", "are the same destination"),
    Wrong("zero old small", "different sizes"),
    Wrong("zero old --to 1000000", "behind the end of 'old'"),
    Wrong("zero old --count 0", "--count: must be more than 0"),
    Wrong("compare source", "Missing expected argument '<second>'"),
    Wrong("compare source missing", "cannot open 'missing'"),
    Wrong("compare source old --from 17", "behind the end of 'source'"),
    Wrong("compare odd source --from 2", "behind the end of 'odd'"),
    Wrong("compare source old --count 0", "--count: must be more than 0"),
    Wrong("info missing", "cannot open 'missing'"),
    Wrong("frobnicate", "'frobnicate'"),
    Wrong("copy source old --frobnicate", "'--frobnicate'"),
  ]

  @Test(arguments: cases)
  func `is refused`(_ wrong: Wrong) throws {
    let folder = try Folder()
    let manager = FileManager.default
    try folder.write("source", pattern(8192))
    try folder.write("odd", pattern(1000))
    try folder.write("old", pattern(20000 / 512 * 512, seed: 2))
    try folder.write("small", pattern(512, seed: 3))
    try folder.write("empty", Data())
    try manager.createDirectory(atPath: folder.file("folder"), withIntermediateDirectories: false)
    try manager.createSymbolicLink(
      atPath: folder.file("link"), withDestinationPath: folder.file("source"))
    try manager.linkItem(atPath: folder.file("source"), toPath: folder.file("hard"))
    mkfifo(folder.file("pipe"), 0o600)
    let before = folder.names
    let outcome = try Command.run(wrong.arguments, in: folder)
    #expect(outcome.status == 2)
    #expect(outcome.output.isEmpty)
    #expect(outcome.errors.hasPrefix("kcopyd: "))
    #expect(outcome.errors.contains(wrong.says), "\(outcome.errors)")
    #expect(outcome.errors.dropLast().contains("\n") == false, "more than one line")
    #expect(folder.names == before)
    #expect(try folder.read("source") == pattern(8192))
    #expect(try folder.read("old") == pattern(20000 / 512 * 512, seed: 2))
    #expect(try folder.read("small") == pattern(512, seed: 3))
  }

  @Test func `more than 64 destinations are refused, 64 are not`() throws {
    let folder = try Folder()
    try folder.write("source", pattern(8192))
    let names = (1...65).map { "d\($0)" }
    let refused = try Command.run(["copy", "source"] + names, in: folder)
    #expect(refused.status == 2)
    #expect(refused.errors == "kcopyd: 65 destinations; the most is 64\n")
    #expect(folder.names == ["source"])
    #expect(try Command.run(["copy", "source"] + names.dropLast(), in: folder).status == 0)
    #expect(try names.dropLast().allSatisfy { try folder.read($0) == pattern(8192) })
  }

  @Test(arguments: ["--help", "--version", "copy --help", "help zero"])
  func `help is no error`(_ line: String) throws {
    let outcome = try Command.run(
      line.split(separator: " ").map(String.init), in: try Folder())
    #expect(outcome.status == 0)
    #expect(!outcome.output.isEmpty && outcome.errors.isEmpty)
  }
}
