import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Snapshots

/// The words of a table line behind the two devices: which are taken, which refused, and how they
/// are printed again.
@Suite struct SnapshotParametersTests {
  private static func parameters(_ line: String) throws(SnapshotError) -> SnapshotParameters {
    try SnapshotParameters(words: line.split(separator: " ").map(String.init))
  }

  // MARK: Store

  @Test(arguments: [
    ("P", StoreKind.persistent), ("p", .persistent),
    ("PO", .persistentWithOverflow), ("pO", .persistentWithOverflow),
    ("po", .persistentWithOverflow),
    ("POxyz", .persistentWithOverflow),
    ("N", .transient), ("n", .transient), ("NO", .transient), ("Nxyz", .transient),
  ])
  func takesStore(_ word: String, _ kind: StoreKind) throws {
    #expect(try Self.parameters("\(word) 16").store == kind)
  }

  @Test(arguments: ["X", "PX", "Px", "PXO", "0", "O", "8"])
  func refusesStore(_ word: String) {
    #expect(throws: SnapshotError.arguments("'\(word)' is no store; P, PO or N")) {
      try Self.parameters("\(word) 16")
    }
  }

  @Test func refusesAnEmptyStore() {
    #expect(throws: SnapshotError.self) { try SnapshotParameters(words: ["", "16"]) }
  }

  // MARK: Chunk size

  @Test(arguments: [1, 2, 8, 16, 1024, 2_097_152] as [UInt64])
  func takesChunkSize(_ sectors: UInt64) throws {
    #expect(try Self.parameters("P \(sectors)").chunkSize?.sectors == Sector(sectors))
  }

  /// 4 194 303 is what the kernel compares with, and no power of two.
  @Test(arguments: [3, 12, 17, 4_194_303, 4_194_304, 4_294_967_295] as [UInt64])
  func refusesChunkSize(_ sectors: UInt64) {
    #expect(
      throws: SnapshotError.arguments(
        "a chunk size of \(sectors) sectors: it must be a power of two up to 2097152")
    ) {
      try Self.parameters("P \(sectors)")
    }
  }

  @Test(arguments: ["-8", "16k", "0x10", "8.0", "x", "4294967296", "99999999999999999999"])
  func refusesWhatIsNoNumber(_ word: String) {
    #expect(throws: SnapshotError.arguments("'\(word)' is no chunk size in sectors")) {
      try Self.parameters("P \(word)")
    }
  }

  @Test func zeroIsTheDefaultOfAPersistentStore() throws {
    #expect(try Self.parameters("P 0").chunkSize == nil)
    #expect(try Self.parameters("PO 0").chunkSize == nil)
    #expect(throws: SnapshotError.arguments("a transient store needs a chunk size")) {
      try Self.parameters("N 0")
    }
  }

  @Test(arguments: ["", "P", "N"])
  func refusesTooFewWords(_ line: String) {
    #expect(throws: SnapshotError.arguments("store and chunk size are missing")) {
      try Self.parameters(line)
    }
  }

  // MARK: Features

  @Test func takesFeatures() throws {
    let none = try Self.parameters("P 16 0")
    #expect(!none.discardZeroesCow && !none.discardPassdownOrigin)
    let one = try Self.parameters("P 16 1 discard_zeroes_cow")
    #expect(one.discardZeroesCow && !one.discardPassdownOrigin)
    let both = try Self.parameters("P 16 2 Discard_Passdown_Origin DISCARD_ZEROES_COW")
    #expect(both.discardZeroesCow && both.discardPassdownOrigin)
    let twice = try Self.parameters("P 16 2 discard_zeroes_cow discard_zeroes_cow")
    #expect(twice.discardZeroesCow && !twice.discardPassdownOrigin)
  }

  @Test func ignoresWordsBehindTheFeatures() throws {
    let parameters = try Self.parameters("P 16 1 discard_zeroes_cow and more")
    #expect(parameters.discardZeroesCow)
    #expect(try Self.parameters("P 16 0 discard_zeroes_cow").discardZeroesCow == false)
  }

  @Test(arguments: [
    ("3 a b c", "'3' is no number of features; 0 to 2"),
    ("-1", "'-1' is no number of features; 0 to 2"),
    ("discard_zeroes_cow", "'discard_zeroes_cow' is no number of features; 0 to 2"),
    ("1", "fewer features than announced"),
    ("2 discard_zeroes_cow", "fewer features than announced"),
    ("1 discard", "unknown feature 'discard'"),
    ("2 discard_zeroes_cow discard", "unknown feature 'discard'"),
    ("1 discard_passdown_origin", "discard_passdown_origin needs discard_zeroes_cow"),
  ])
  func refusesFeatures(_ words: String, _ reason: String) {
    #expect(throws: SnapshotError.arguments(reason)) { try Self.parameters("P 16 \(words)") }
  }

  // MARK: Printing

  @Test(arguments: [
    ("P 16", "P 16"), ("pO 8", "PO 8"), ("n 1", "N 1"), ("Nothing 2 0", "N 2"),
    ("P 16 1 discard_zeroes_cow extra", "P 16 1 discard_zeroes_cow"),
    (
      "P 16 2 discard_passdown_origin discard_zeroes_cow",
      "P 16 2 discard_zeroes_cow discard_passdown_origin"
    ),
  ])
  func printsItsWords(_ line: String, _ printed: String) throws {
    let parameters = try Self.parameters(line)
    #expect(parameters.words(chunkSize: try #require(parameters.chunkSize)) == printed)
  }

  // MARK: What devices add

  /// The default chunk: 16 KiB, or the COW device's block if that is larger.
  @Test(arguments: [(512, 32), (4096, 32), (16384, 32), (65536, 128)])
  func defaultChunkSize(_ block: Int, _ sectors: UInt64) throws {
    try simulate { loop in
      var limits = SimulatedDisk.allCapabilities
      limits.logicalBlock = block
      let cow = SimulatedDisk(
        "cow", sectorCount: 1024, content: .zeroes, loop: loop, limits: limits)
      let origin = try Origin(MemoryDevice(sectorCount: 256), on: loop)
      let snapshot = try await origin.addSnapshot(
        cow: cow, parameters: try Self.parameters("P 0"))
      #expect(snapshot.chunkSize.sectors == Sector(sectors))
      #expect(await snapshot.tableWords == "P \(sectors)")
    }
  }

  @Test func refusesChunksThatAreNoMultipleOfTheBlock() throws {
    try simulate { loop in
      var limits = SimulatedDisk.allCapabilities
      limits.logicalBlock = 8192
      let large = SimulatedDisk(
        "large", sectorCount: 256, content: .zeroes, loop: loop, limits: limits)
      let small = MemoryDevice(sectorCount: 256)
      for (origin, cow) in [(large, small), (small, large)] as [(any BlockDevice, any BlockDevice)]
      {
        for line in ["P 8", "N 8"] {
          let origin = try Origin(origin, on: loop)
          await #expect(
            throws: SnapshotError.chunkSize(
              "a chunk size of 8 sectors: no multiple of the 8192-byte blocks of 'large'")
          ) {
            try await origin.addSnapshot(cow: cow, parameters: try Self.parameters(line))
          }
        }
      }
      #expect(small.image.allSatisfy { $0 == 0 })
    }
  }

  @Test func refusesOneDeviceForBoth() throws {
    try simulate { loop in
      let disk = MemoryDevice(name: "disk", sectorCount: 256)
      let origin = try Origin(disk, on: loop)
      await #expect(throws: SnapshotError.originIsCow("disk")) {
        try await origin.addSnapshot(cow: disk)
      }
    }
  }

  @Test func refusesASnapshotLongerThanItsOrigin() throws {
    try simulate { loop in
      let origin = try Origin(MemoryDevice(name: "disk", sectorCount: 256), on: loop)
      let cow = MemoryDevice(sectorCount: 256)
      await #expect(
        throws: SnapshotError.originTooSmall(origin: "disk", sectors: 256, needed: 257)
      ) {
        try await origin.addSnapshot(cow: cow, sectorCount: 257)
      }
    }
  }
}
