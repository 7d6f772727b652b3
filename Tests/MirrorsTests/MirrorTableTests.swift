import BlockIO
import Mirrors
import Testing

/// The words of a table line behind the target's name: which are taken, which refused, and how they
/// are printed.
@Suite struct MirrorTableTests {
  private static func table(
    _ line: String, length: Sector = 1024
  ) throws(MirrorError) -> MirrorTable {
    try MirrorTable(words: line.split(separator: " ").map(String.init), length: length)
  }

  @Test(arguments: [
    "core 1 16 2 a 0 b 0",
    "core 2 16 sync 2 a 0 b 0",
    "core 2 16 nosync 3 a 0 b 8 c 99999",
    "disk 2 log 16 2 a 0 b 0",
    "disk 3 log 1024 sync 2 a 0 b 0",
    "disk 3 log 2 nosync 2 a 0 b 0 1 handle_errors",
    "disk 2 log 16 2 a 0 b 0 2 handle_errors keep_log",
    "core 1 16 9 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0",
  ])
  func goodOnesArePrintedAsTheyWere(_ line: String) throws {
    #expect(try Self.table(line).words == line)
  }

  @Test func wordsHaveAMeaning() throws {
    let table = try Self.table("disk 3 log 32 nosync 2 a 5 b 0 2 keep_log handle_errors")
    #expect(table.log == "log")
    #expect(table.legs == [.init(device: "a", offset: 5), .init(device: "b", offset: 0)])
    #expect(table.parameters.regionSize.sectors == 32)
    #expect(table.parameters.sync == .nosync)
    #expect(table.parameters.handlesErrors)
    #expect(table.parameters.keepsLog)
    // Features are printed in the kernel's order; none and zero of them are the same.
    #expect(table.words.hasSuffix(" 2 handle_errors keep_log"))
    #expect(try Self.table("core 1 16 2 a 0 b 0 0").words == "core 1 16 2 a 0 b 0")
  }

  @Test(arguments: [
    "", "core", "core 1", "core 0", "core x 16 2 a 0 b 0",
    "flash 1 16 2 a 0 b 0",
    // The log.
    "core 1 16", "core 3 16 sync sync 2 a 0 b 0", "core 2 16 2 2 a 0 b 0",
    "core 2 16 some 2 a 0 b 0",
    "disk 1 16 2 a 0 b 0", "disk 1 log 2 a 0 b 0", "disk 2 log size 2 a 0 b 0",
    "disk 4 log 16 sync sync 2 a 0 b 0", "core 1 16 sync 2 a 0 b 0",
    // Legs.
    "core 1 16 1 a 0", "core 1 16 0", "core 1 16 x a 0 b 0", "core 1 16 2 a 0 b", "core 1 16 2 a 0",
    "core 1 16 10 a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0", "core 1 16 2 a 0 b -1",
    "core 1 16 2 a 0 b x", "core 1 16 2 a 0 b 36028797018963968",
    // Features.
    "core 1 16 2 a 0 b 0 1", "core 1 16 2 a 0 b 0 1 keep_log", "core 1 16 2 a 0 b 0 1 mend",
    "core 1 16 2 a 0 b 0 2 handle_errors", "core 1 16 2 a 0 b 0 1 handle_errors keep_log",
    "core 1 16 2 a 0 b 0 handle_errors", "core 1 16 2 a 0 b 0 0 handle_errors",
    "core 1 16 2 a 0 b 0 3 handle_errors keep_log handle_errors",
  ])
  func badWordsAreRefused(_ line: String) {
    #expect {
      _ = try Self.table(line)
    } throws: { error in
      if case .arguments(let text)? = error as? MirrorError { !text.isEmpty } else { false }
    }
  }

  @Test(arguments: ["0", "1", "3", "48", "2048", "36028797018963968"])
  func badRegionSizesAreRefused(_ size: String) {
    #expect {
      _ = try Self.table("core 1 \(size) 2 a 0 b 0")
    } throws: { error in
      if case .regionSize? = error as? MirrorError { true } else { false }
    }
  }

  /// As many regions as 32 bits can count, and one more.
  @Test func tooManyRegionsAreRefused() throws {
    let most = Sector(2 * (1 << 32 - 1))
    #expect(try Self.table("core 1 2 2 a 0 b 0", length: most).parameters.regionSize.sectors == 2)
    #expect(throws: MirrorError.self) {
      try Self.table("core 1 2 2 a 0 b 0", length: most + 1)
    }
  }
}
