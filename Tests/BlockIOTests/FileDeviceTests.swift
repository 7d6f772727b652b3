import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

/// Transfers of files, over each backend, through the page cache and past it.
@Suite struct FileTransferTests {
  private static let new = Pattern("new")

  /// Random requests of odd places and lengths, compared with a model.
  @Test(arguments: FileSetup.all) func roundTrips(setup: FileSetup) async throws {
    let byteCount = 256 << 10 | 3 * 512 + 100
    let bytes = patternBytes(Pattern("file"), byteCount: byteCount)
    try await setup.runWithDevice(bytes) { device, path in
      var model = bytes + [UInt8](repeating: 0, count: 412)
      let all = Sector.zero..<device.sectorCount
      #expect(Int(device.sectorCount.bytes) == model.count)
      #expect(device.byteCount == UInt64(byteCount))
      var random = SeededRandom(seed: seeds(1, base: 11)[0])
      let pages = await (try PagePool(pageCount: 33)).take(33)
      for number in 0..<120 {
        let longest: Sector = random.chance(1, in: 8) ? 256 : 24
        let sectors = random.range(in: all, longest: longest)
        let start = Int(sectors.lowerBound.bytes)
        // Memory that isn't aligned as disks want it, too.
        let shift = random.chance(1, in: 2) ? Sector(random.next(upperBound: UInt64(8))) : 0
        let buffer = pages.buffer.slice(shift, sectors.length)
        if random.chance(1, in: 2) {
          buffer.load(from: [UInt8](repeating: 0xa5, count: buffer.byteCount))
          try await device.read(sectors, into: buffer)
          var found = [UInt8](repeating: 0, count: buffer.byteCount)
          buffer.store(into: &found)
          let expected = Array(model[start..<start + found.count])
          if let wrong = ContentMismatch(found, expected: expected, from: sectors.lowerBound) {
            throw wrong
          }
        } else {
          let pattern = Pattern("w\(number)")
          pattern.fill(buffer, from: sectors.lowerBound)
          let options: WriteOptions = random.chance(1, in: 20) ? .durable : []
          try await device.write(sectors, from: buffer, options: options)
          model.replaceSubrange(start..<start + buffer.byteCount, with: pattern.bytes(sectors))
          // What lies behind the end isn't written.
          model.replaceSubrange(byteCount..., with: [UInt8](repeating: 0, count: 412))
        }
      }
      try await device.flush()
      let found = try get(path)
      #expect(found.count == byteCount)
      #expect(found == Array(model.prefix(byteCount)))
    }
  }

  /// Files that end within a sector or a block: zeros are read behind the end, nothing is written.
  @Test(arguments: FileSetup.all) func tails(setup: FileSetup) async throws {
    try await setup.run { loop, folder in
      let pages = await (try PagePool(pageCount: 4)).take(4)
      for byteCount in [1, 511, 512, 513, 4095, 4096, 4097, 4608, 5000, 12288 + 7] {
        let path = "\(folder)/\(byteCount)"
        let bytes = patternBytes(Pattern("file"), byteCount: byteCount)
        try put(bytes, path)
        let options = FileDevice.Options(isWritable: true, direct: setup.direct)
        let device = try FileDevice.open(path, options, on: loop)
        let buffer = pages.buffer.slice(0, device.sectorCount)
        let all = Sector.zero..<device.sectorCount
        buffer.load(from: [UInt8](repeating: 0xff, count: buffer.byteCount))
        try await device.read(all, into: buffer)
        let tail = [UInt8](repeating: 0, count: buffer.byteCount - byteCount)
        var found = [UInt8](repeating: 1, count: buffer.byteCount)
        buffer.store(into: &found)
        #expect(found == bytes + tail, "\(byteCount)")

        let last = device.sectorCount - 1..<device.sectorCount
        Self.new.fill(buffer.slice(0, 1), from: last.lowerBound)
        try await device.write(last, from: buffer.slice(0, 1))
        let start = Int(last.lowerBound.bytes)
        let expected = bytes[..<start] + Self.new.bytes(last).prefix(byteCount - start)
        #expect(try get(path) == Array(expected), "\(byteCount)")
        try await device.write(all, from: IOBuffer.zeroes.slice(0, all.length))
        #expect(try get(path) == [UInt8](repeating: 0, count: byteCount), "\(byteCount)")
      }
    }
  }

  @Test(arguments: FileSetup.all) func largeTransfers(setup: FileSetup) async throws {
    let count: Sector = 6 * 2048
    try await setup.runWithDevice(Pattern("file").bytes(.zero..<count)) { device, path in
      let pool = try PagePool(pageCount: PagePool.pages(holding: count))
      let pages = await pool.take(pool.pageCount)
      try await device.read(.zero..<count, into: pages.buffer)
      if let wrong = Pattern("file").mismatch(pages.buffer, from: 0) { throw wrong }
      Self.new.fill(pages.buffer, from: 0)
      try await device.write(.zero..<count, from: pages.buffer)
      if let wrong = Self.new.mismatch(try get(path), from: 0) { throw wrong }
    }
  }

  /// More requests at once than a ring has places.
  @Test(arguments: FileSetup.all) func manyRequests(setup: FileSetup) async throws {
    let count: UInt64 = 600
    try await setup.runWithDevice(Pattern("file").bytes(.zero..<Sector(count * 8))) {
      device, path in
      let pool = try PagePool(pageCount: Int(count))
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<count {
          group.addTask {
            let sectors = Sector(number * 8)..<Sector(number * 8 + 8)
            let pages = await pool.take(1)
            try await device.read(sectors, into: pages.buffer)
            if let wrong = Pattern("file").mismatch(pages.buffer, from: sectors.lowerBound) {
              throw wrong
            }
            Self.new.fill(pages.buffer, from: sectors.lowerBound)
            try await device.write(sectors, from: pages.buffer)
          }
        }
        try await group.waitForAll()
      }
      if let wrong = Self.new.mismatch(try get(path), from: 0) { throw wrong }
    }
  }

  /// The canary of the checks above: one changed byte behind the device's back.
  @Test func changedByteIsFound() async throws {
    let setup = FileSetup(backend: .threads, direct: .off, folder: Machine.folders[0])
    var bytes = Pattern("file").bytes(0..<64)
    bytes[40 * 512 + 300] ^= 1
    try await setup.runWithDevice(bytes) { device, _ in
      let pages = await (try PagePool(pageCount: 8)).take(8)
      try await device.read(0..<64, into: pages.buffer)
      #expect(Pattern("file").mismatch(pages.buffer, from: 0)?.sectors == RangeSet(40..<41))
    }
  }

  // MARK: Failures

  @Test(arguments: FileSetup.all) func shrunkSource(setup: FileSetup) async throws {
    try await setup.runWithDevice(Pattern("file").bytes(0..<4096)) { device, path in
      let pool = try PagePool(pageCount: 512)
      let pages = await pool.take(512)
      try resize(path, to: 20 * 512 + 100)
      let blocks = Sector(UInt64(max(1, device.limits.logicalBlock / 512)))
      // Small – on the spot –, large, and wholly behind the new end.
      for sectors in [10..<30, 0..<4096, 100..<110] as [Range<Sector>] {
        let buffer = pages.buffer.slice(0, sectors.length)
        let found = await failure { try await device.read(sectors, into: buffer) }
        let failed = try #require(found?.sectors)
        #expect(found?.errno == .ioError && found?.operation == .read)
        #expect(found?.reason.contains("shrunk") == true)
        let first = max(sectors.lowerBound, 20)
        #expect(failed.lowerBound <= first && failed.lowerBound + blocks > first)
        #expect(failed.upperBound > first && failed.upperBound <= sectors.upperBound)
        let good = sectors.lowerBound..<max(sectors.lowerBound, failed.lowerBound)
        #expect(
          Pattern("file").mismatch(buffer.slice(0, good.length), from: good.lowerBound) == nil)
      }
    }
  }

  @Test(arguments: FileSetup.all) func behindTheEnd(setup: FileSetup) async throws {
    let bytes = patternBytes(Pattern("file"), byteCount: 10_000)
    try await setup.runWithDevice(bytes) { device, path in
      #expect(device.sectorCount == 20)
      let pages = await (try PagePool(pageCount: 2)).take(2)
      let buffer = pages.buffer.slice(0, 4)
      let sectors: Range<Sector> = 17..<21
      let failures = [
        await failure { try await device.read(sectors, into: buffer) },
        await failure { try await device.write(sectors, from: buffer) },
        await failure { try await device.write(sectors, from: buffer, options: .durable) },
        await failure { try await device.writeZeroes(sectors, mayUnmap: true) },
        await failure { try await device.discard(sectors) },
        await failure { _ = try await device.blockStatus(sectors, limit: 1) },
      ]
      #expect(failures.map { $0?.errno } == [Errno?](repeating: .ioError, count: 6))
      #expect(failures.allSatisfy { $0?.sectors == sectors })
      #expect(try get(path) == bytes)
    }
  }
}
