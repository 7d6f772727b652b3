import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Testing

@testable import Snapshots

/// What a store may hold, what is refused – at which byte and why – and that looking at a store
/// never writes to it.
@Suite struct StoreLoaderTests {
  /// A store of 4 KiB chunks – 256 exceptions in an area – for an origin of 64 chunks.
  struct Sample {
    static let originSectors: Sector = 512
    var bytes: [UInt8]

    /// The store, and whatever the device held before in its data chunks.
    init(chunks: Int = 40, _ exceptions: [(old: UInt64, new: UInt64)] = []) {
      bytes = [UInt8](repeating: 0xa5, count: chunks * 4096)
      bytes.replaceSubrange(..<8192, with: repeatElement(0, count: 8192))
      bytes.putHeader(chunkSectors: 8)
      for (index, exception) in exceptions.enumerated() {
        put(index: index, exception.old, exception.new)
      }
    }

    mutating func put(area: UInt64 = 0, index: Int, _ old: UInt64, _ new: UInt64) {
      bytes.putException(chunkSectors: 8, area: area, index: index, old: old, new: new)
    }

    mutating func header(
      magic: UInt32 = 0x7041_6E53, valid: UInt32 = 1, version: UInt32 = 1, chunkSectors: UInt32 = 8
    ) {
      bytes.putHeader(magic: magic, valid: valid, version: version, chunkSectors: chunkSectors)
    }

    static func offset(area: UInt64 = 0, index: Int) -> UInt64 {
      UInt64(exceptionOffset(chunkSectors: 8, area: area, index: index))
    }
  }

  /// Expects the store to be refused, and nothing to be written.
  private static func refuses(
    _ bytes: [UInt8], block: Int = 512, at offset: UInt64, _ reason: StoreDamage.Reason,
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    try simulate { loop in
      var limits = SimulatedDisk.allCapabilities
      limits.logicalBlock = block
      let cow = SimulatedDisk(
        "cow", sectorCount: Sector(holding: UInt64(bytes.count)), content: .zeroes, loop: loop,
        limits: limits)
      cow.fill(bytes)
      let origin = try Origin(
        MemoryDevice(name: "origin", sectorCount: Sample.originSectors), on: loop)
      let damage = StoreDamage(device: "cow", offset: offset, reason: reason)
      await #expect(throws: SnapshotError.damaged(damage), sourceLocation: sourceLocation) {
        try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      }
      await #expect(throws: SnapshotError.damaged(damage), sourceLocation: sourceLocation) {
        try await origin.addMerge(cow: cow)
      }
      #expect(cow.contents == bytes, sourceLocation: sourceLocation)
      let writes = cow.log.filter { $0.operation != .read }
      #expect(writes.isEmpty, sourceLocation: sourceLocation)
    }
  }

  // MARK: Header

  @Test func refusesForeignMagic() throws {
    var store = Sample()
    store.header(magic: 0x1234_5678)
    try Self.refuses(store.bytes, at: 0, .foreignMagic(0x1234_5678))
  }

  @Test(arguments: [0, 2, 0x0100_0000] as [UInt32])
  func refusesVersion(_ version: UInt32) throws {
    var store = Sample()
    store.header(version: version)
    try Self.refuses(store.bytes, at: 8, .version(version))
  }

  @Test(
    arguments: [
      (0, "it must be a power of two up to 2097152"),
      (1, "it must be at least 8"),
      (4, "it must be at least 8"),
      (12, "it must be a power of two up to 2097152"),
      (4_194_304, "it must be a power of two up to 2097152"),
      (0xffff_ffff, "it must be a power of two up to 2097152"),
    ] as [(UInt32, String)])
  func refusesChunkSize(_ sectors: UInt32, _ rule: String) throws {
    var store = Sample()
    store.header(chunkSectors: sectors)
    try Self.refuses(store.bytes, at: 12, .chunkSize(sectors, rule: rule))
  }

  @Test func refusesChunksThatAreNoMultipleOfTheBlock() throws {
    try Self.refuses(
      Sample().bytes, block: 8192, at: 12,
      .chunkSize(8, rule: "no multiple of the 8192-byte blocks of 'cow'"))
  }

  /// Header and first area must be there as a whole, with chunks of any size.
  @Test func refusesTruncated() throws {
    let store = Sample()
    for sectors in [1, 8, 15] {
      let bytes = Array(store.bytes[..<(sectors * 512)])
      try Self.refuses(bytes, at: UInt64(bytes.count), .truncated(chunksNeeded: 2))
    }
    var large = Sample()
    large.header(chunkSectors: 2_097_152)
    try Self.refuses(
      large.bytes, at: UInt64(large.bytes.count), .truncated(chunksNeeded: 2))
    let lessThanABlock = Array(store.bytes[..<1024])
    try Self.refuses(lessThanABlock, block: 4096, at: 0, .truncated(chunksNeeded: 2))
  }

  /// A new store isn't made where header and first area have no room either.
  @Test func makesNoStoreWithoutRoom() throws {
    var bytes = [UInt8](repeating: 7, count: 15 * 512)
    bytes.put(0 as UInt32, at: 0)
    let damage = StoreDamage(
      device: "cow", offset: UInt64(bytes.count), reason: .truncated(chunksNeeded: 2))
    try simulate { [bytes] loop in
      let cow = MemoryDevice(name: "cow", sectorCount: 15)
      cow.fill(bytes)
      let origin = try Origin(MemoryDevice(sectorCount: Sample.originSectors), on: loop)
      await #expect(throws: SnapshotError.damaged(damage)) {
        try await origin.addSnapshot(cow: cow, parameters: .persistent(8))
      }
      #expect(cow.image == bytes)
    }
  }

  /// An invalid store is known as such; its exceptions – no matter which – aren't read.
  @Test func loadsInvalidStore() throws {
    var store = Sample([(old: 3, new: 5), (old: .max, new: .max)])
    store.header(valid: 0)
    try simulate { [bytes = store.bytes] loop in
      let cow = MemoryDevice(name: "cow", sectorCount: 320)
      cow.fill(bytes)
      let origin = try Origin(MemoryDevice(sectorCount: Sample.originSectors), on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow)
      try await snapshot.resume()
      #expect(await snapshot.status.line == "Invalid")
      #expect(await snapshot.status.exceptions == 0)
      await #expect(throws: IOFailure.self) { try await snapshot.contents(0..<1) }
      await #expect(throws: IOFailure.self) { try await snapshot.put("mine", 0..<8) }
      try await origin.device.put("new", 0..<8)
      #expect(cow.image == bytes)
    }
  }

  /// Anything but 0 is valid, and what lies behind the header in its chunk doesn't matter.
  @Test func loadsWithOtherBytesInTheHeaderChunk() throws {
    var store = Sample([(old: 3, new: 2)])
    store.header(valid: 0x8000_0000)
    for index in 16..<4096 { store.bytes[index] = 0xee }
    let loaded = try Self.load(store.bytes)
    #expect(loaded.isValid)
    #expect(loaded.exceptions.value(of: 3) == 2)
  }

  // MARK: Exceptions

  private static func refuses(
    _ old: UInt64, _ new: UInt64, _ reason: (Snapshots.Exception) -> StoreDamage.Reason,
    chunks: Int = 300
  ) throws {
    let exception = Exception(old: OriginChunk(old), new: CowChunk(new))
    for index in [0, 3, 40] {
      let good = (0..<UInt64(index)).map { (old: 63 - $0, new: 22 + $0) }
      var store = Sample(chunks: chunks, good)
      store.put(index: index, old, new)
      try refuses(store.bytes, at: Sample.offset(index: index), reason(exception))
    }
  }

  @Test(arguments: [300, 301, 1 << 55, 1 << 56, .max] as [UInt64])
  func refusesBeyondCow(_ new: UInt64) throws {
    try Self.refuses(1, new) { .beyondCow($0) }
  }

  /// A begun chunk at the end of the device is none.
  @Test func refusesTheBegunLastChunk() throws {
    var store = Sample(chunks: 10, [(old: 0, new: 9)])
    store.bytes.removeLast(512)
    try Self.refuses(
      store.bytes, at: Sample.offset(index: 0), .beyondCow(Exception(old: 0, new: 9)))
  }

  @Test(arguments: [64, 65, 1 << 56, .max] as [UInt64])
  func refusesBeyondOrigin(_ old: UInt64) throws {
    try Self.refuses(old, 20) { .beyondOrigin($0) }
  }

  @Test(arguments: [1, 258] as [UInt64])
  func refusesDataInMetadata(_ new: UInt64) throws {
    try Self.refuses(1, new) { .inMetadata($0) }
  }

  @Test func refusesAChunkTwice() throws {
    let first = Sample([(old: 5, new: 2), (old: 6, new: 3), (old: 5, new: 4)])
    try Self.refuses(
      first.bytes, at: Sample.offset(index: 2), .originChunkTwice(Exception(old: 5, new: 4)))
    let second = Sample([(old: 5, new: 2), (old: 6, new: 3), (old: 7, new: 2)])
    try Self.refuses(
      second.bytes, at: Sample.offset(index: 2), .cowChunkTwice(Exception(old: 7, new: 2)))
  }

  /// Takes any order and gaps, and goes on behind the highest chunk, areas left out.
  @Test func takesAnyOrder() throws {
    let some = try Self.load(
      Sample([(old: 9, new: 30), (old: 0, new: 2), (old: 63, new: 7)]).bytes)
    #expect(some.nextFree == 31)
    #expect(some.exceptions.count == 3)
    #expect(some.exceptions.value(of: 0) == 2)
    #expect(some.exceptions.value(of: 9) == 30)
    #expect(some.exceptions.value(of: 63) == 7)
    #expect(!some.hasRemains)
    // Chunk 258 would be area 1.
    try simulate { loop in
      let cow = MemoryDevice(name: "cow", sectorCount: 2400)
      cow.fill(Sample(chunks: 300, [(old: 1, new: 257)]).bytes)
      let origin = try Origin(MemoryDevice(sectorCount: Sample.originSectors), on: loop)
      let snapshot = try await origin.addSnapshot(cow: cow)
      #expect(await snapshot.status.line == "2072/2400 16")
    }
  }

  // MARK: Areas

  /// A first area full of exceptions for an origin that has them all.
  private static func full(chunks: Int) -> Sample {
    Sample(chunks: chunks, (0..<256).map { (old: $0, new: $0 + 2) })
  }

  static func load(
    _ bytes: [UInt8], originSectors: Sector = Sample.originSectors
  ) throws -> LoadedStore {
    try simulate { loop in
      let cow = MemoryDevice(name: "cow", sectorCount: Sector(holding: UInt64(bytes.count)))
      cow.fill(bytes)
      let origin = MemoryDevice(sectorCount: originSectors)
      let loader = StoreLoader(device: cow, origin: origin, loop: loop)
      let store = try await loader.load()
      #expect(cow.image == bytes)
      return try #require(store)
    }
  }

  /// The device ends where the next area should be, or within it.
  @Test(arguments: [0, 512, 7 * 512])
  func refusesFullAreasWithoutEnd(_ more: Int) throws {
    var store = Self.full(chunks: 258)
    store.bytes += [UInt8](repeating: 0, count: more)
    let damage = StoreDamage(
      device: "cow", offset: Sample.offset(area: 1, index: 0), reason: .noTerminator)
    #expect(throws: SnapshotError.damaged(damage)) {
      try Self.load(store.bytes, originSectors: 4096)
    }
  }

  @Test func goesOnInTheNextArea() throws {
    var store = Self.full(chunks: 300)
    store.bytes.replaceSubrange(258 * 4096..<259 * 4096, with: repeatElement(0, count: 4096))
    let empty = try Self.load(store.bytes, originSectors: 4096)
    #expect(empty.area == 1)
    #expect(empty.entries.isEmpty)
    #expect(empty.exceptions.runCount == 1)
    store.put(area: 1, index: 0, 400, 280)
    store.put(area: 1, index: 1, 512, 281)
    let damage = StoreDamage(
      device: "cow", offset: Sample.offset(area: 1, index: 1),
      reason: .beyondOrigin(Exception(old: 512, new: 281)))
    #expect(throws: SnapshotError.damaged(damage)) {
      try Self.load(store.bytes, originSectors: 4096)
    }
    #expect(try Self.load(store.bytes, originSectors: 4097).entries.count == 2)
  }
}
