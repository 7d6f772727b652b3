import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

/// Block specials: loop devices with small and large blocks.
@Suite(
  .serialized,
  .enabled(if: LoopDisk.isPossible, "loop devices need root, losetup and a kernel that has them"))
struct LoopDiskTests {
  struct Setup: Sendable, CustomTestStringConvertible {
    let backend: BackendChoice
    let block: Int
    let direct: DirectChoice

    var testDescription: String { "\(backend) blocks of \(block) direct \(direct)" }

    static let all: [Setup] = Machine.backends.flatMap { backend in
      [512, 4096].flatMap { block in
        [DirectChoice.auto, .off].map { Setup(backend: backend, block: block, direct: $0) }
      }
    }

    /// Calls `body` with a disk of a MiB.
    func run(
      _ body: @escaping @Sendable (_ device: FileDevice, _ disk: LoopDisk) async throws -> Void
    ) async throws {
      try await withTemporaryFolder { folder in
        try await withLoopDisk(in: folder, byteCount: 1 << 20, block: block) { disk in
          try await onLoop(backend) { loop in
            let options = FileDevice.Options(isWritable: true, direct: direct)
            try await body(FileDevice.open(disk.path, options, on: loop), disk)
          }
        }
      }
    }
  }

  @Test(arguments: Setup.all) func limits(setup: Setup) async throws {
    try await setup.run { device, disk in
      #expect(device.isBlockSpecial && device.byteCount == 1 << 20)
      #expect(device.limits.logicalBlock == setup.block && !device.limits.isReadOnly)
      #expect(device.isDirect == (setup.direct == .auto))
      #expect(try await device.blockStatus(3..<9, limit: 1) == [BlockExtent(3..<9, .unknown)])
      // The same data by another name.
      let identity = try await onLoop(.threads) { loop in
        try FileDevice.open(disk.backing, FileDevice.Options(isWritable: false), on: loop).identity
      }
      #expect(device.identity == identity)
    }
  }

  /// Requests of any place and length, on blocks larger than a sector, too.
  @Test(arguments: Setup.all) func roundTrips(setup: Setup) async throws {
    try await setup.run { device, disk in
      var model = [UInt8](repeating: 0, count: 1 << 20)
      var random = SeededRandom(seed: seeds(1, base: 5)[0])
      let pages = await (try PagePool(pageCount: 16)).take(16)
      for number in 0..<100 {
        let sectors = random.range(in: 0..<2048, longest: 60)
        let shift = random.chance(1, in: 2) ? Sector(random.next(upperBound: UInt64(8))) : 0
        let buffer = pages.buffer.slice(shift, sectors.length)
        let start = Int(sectors.lowerBound.bytes)
        let pattern = Pattern("w\(number)")
        pattern.fill(buffer, from: sectors.lowerBound)
        switch random.next(upperBound: UInt64(5)) {
        case 0:
          try await device.writeZeroes(sectors, mayUnmap: random.chance(1, in: 2))
          buffer.clear()
        case 1: try await device.write(sectors, from: buffer, options: .durable)
        default: try await device.write(sectors, from: buffer)
        }
        var written = [UInt8](repeating: 0, count: buffer.byteCount)
        buffer.store(into: &written)
        model.replaceSubrange(start..<start + written.count, with: written)

        let look = random.range(in: 0..<2048, longest: 60)
        let lookBuffer = pages.buffer.slice(shift, look.length)
        try await device.read(look, into: lookBuffer)
        var found = [UInt8](repeating: 1, count: lookBuffer.byteCount)
        lookBuffer.store(into: &found)
        let place = Int(look.lowerBound.bytes)
        let expected = Array(model[place..<place + found.count])
        if let wrong = ContentMismatch(found, expected: expected, from: look.lowerBound) {
          throw wrong
        }
      }
      try await device.flush()
      if let wrong = ContentMismatch(try get(disk.backing), expected: model, from: 0) {
        throw wrong
      }
    }
  }

  /// Writes at the same time to neighbouring sectors of the same blocks: none may undo another.
  @Test(arguments: Setup.all, [false, true])
  func neighbours(setup: Setup, isShuffled: Bool) async throws {
    try await setup.run { device, disk in
      let pool = try PagePool(pageCount: 64)
      // Pieces of 1 to 13 sectors cover the disk once. In order, so that neighbours meet in
      // their common block; or mixed.
      var pieces: [Range<Sector>] = []
      var random = SeededRandom(seed: seeds(1, base: 6)[0])
      var position: Sector = 0
      while position < 2048 {
        let count = min(Sector(1 + random.next(upperBound: UInt64(13))), 2048 - position)
        pieces.append(position..<position + count)
        position += count
      }
      if isShuffled { pieces.shuffle(using: &random) }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for sectors in pieces {
          group.addTask {
            let pages = await pool.take(PagePool.pages(holding: sectors.length))
            let buffer = pages.buffer.slice(0, sectors.length)
            Pattern("new").fill(buffer, from: sectors.lowerBound)
            try await device.write(sectors, from: buffer)
            buffer.clear()
            try await device.read(sectors, into: buffer)
            if let wrong = Pattern("new").mismatch(buffer, from: sectors.lowerBound) { throw wrong }
          }
        }
        try await group.waitForAll()
      }
      try await device.flush()
      if let wrong = Pattern("new").mismatch(try get(disk.backing), from: 0) { throw wrong }
    }
  }

  @Test(arguments: Setup.all) func discard(setup: Setup) async throws {
    try await setup.run { device, disk in
      let pages = await (try PagePool(pageCount: 16)).take(16)
      Pattern("old").fill(pages.buffer, from: 0)
      try await device.write(0..<128, from: pages.buffer)
      try await device.flush()
      try #require(device.limits.supportsDiscard)
      try await device.discard(32..<64)
      try await device.flush()
      let found = try get(disk.backing)
      #expect(Pattern("old").mismatch(Array(found[..<(32 * 512)]), from: 0) == nil)
      #expect(Pattern("old").mismatch(Array(found[(64 * 512)..<(128 * 512)]), from: 64) == nil)
      let beyond = await failure { try await device.discard(2040..<2049) }
      #expect(beyond?.errno == .ioError && beyond?.sectors == 2040..<2049)
    }
  }

  @Test(arguments: [DirectChoice.auto, .off])
  func heldByAnother(direct: DirectChoice) async throws {
    try await withTemporaryFolder { folder in
      try await withLoopDisk(in: folder, byteCount: 1 << 20, block: 512) { disk in
        try await onLoop(.threads) { loop in
          let options = FileDevice.Options(isWritable: true, direct: direct)
          let holder = try FileDevice.open(disk.path, options, on: loop)
          let found = refusal { try FileDevice.open(disk.path, options, on: loop) }
          #expect(found?.errno == .resourceBusy)
          #expect(found?.reason.hasPrefix("in use") == true)
          var shared = options
          shared.isExclusive = false
          #expect(try FileDevice.open(disk.path, shared, on: loop).identity == holder.identity)
        }
      }
    }
  }

  @Test func readOnly() async throws {
    try await withTemporaryFolder { folder in
      try await withLoopDisk(in: folder, byteCount: 1 << 20, block: 512, isReadOnly: true) { disk in
        try await onLoop(.threads) { loop in
          // By the name itself the kernel refuses with another reason than this library does.
          let found = refusal {
            try FileDevice.open(disk.path, FileDevice.Options(isWritable: true), on: loop)
          }
          #expect(found?.operation == .open)
          #expect([.readOnlyFileSystem, .permissionDenied, .notPermitted].contains(found?.errno))
          let device = try FileDevice.open(
            disk.path, FileDevice.Options(isWritable: false), on: loop)
          #expect(device.limits.isReadOnly)
          let pages = await (try PagePool(pageCount: 1)).take(1)
          try await device.read(0..<8, into: pages.buffer)
          #expect(pages.buffer.isZero)
        }
      }
    }
  }
}
