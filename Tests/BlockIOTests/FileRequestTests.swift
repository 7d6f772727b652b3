import BlockIO
import BlockIOTesting
import Foundation
import SystemPackage
import Testing

/// What files can be asked besides transfers.
@Suite struct FileRequestTests {
  @Test(arguments: FileSetup.all, [false, true])
  func writeZeroes(setup: FileSetup, mayUnmap: Bool) async throws {
    let byteCount = 1 << 20 | 700
    let bytes = patternBytes(Pattern("file"), byteCount: byteCount)
    try await setup.runWithDevice(bytes) { device, path in
      var model = bytes
      // Within a block, whole blocks, more than a MiB of them, up to the begun last sector.
      for sectors in [3..<5, 5..<5, 16..<64, 101..<217, 2049..<2050] as [Range<Sector>] {
        try await device.writeZeroes(sectors, mayUnmap: mayUnmap)
        let end = min(Int(sectors.upperBound.bytes), byteCount)
        for place in Int(sectors.lowerBound.bytes)..<end { model[place] = 0 }
        #expect(try get(path) == model, "\(sectors.label)")
      }
      try await device.writeZeroes(.zero..<device.sectorCount, mayUnmap: mayUnmap)
      #expect(try get(path) == [UInt8](repeating: 0, count: byteCount))
    }
  }

  @Test(arguments: FileSetup.all) func discard(setup: FileSetup) async throws {
    let bytes = Pattern("file").bytes(0..<256)
    try await setup.runWithDevice(bytes) { device, path in
      try #require(device.limits.supportsDiscard)
      try await device.discard(64..<128)
      let found = try get(path)
      #expect(found.count == bytes.count)
      #expect(found[..<(64 * 512)] == bytes[..<(64 * 512)])
      #expect(found[(128 * 512)...] == bytes[(128 * 512)...])
      #expect(try await device.blockStatus(64..<128, limit: 9) == [BlockExtent(64..<128, .zero)])
    }
  }

  /// A file with holes at known places, asked as a whole, in parts and with a limit.
  @Test(arguments: FileSetup.all) func blockStatus(setup: FileSetup) async throws {
    try await setup.run { loop, folder in
      let path = "\(folder)/sparse"
      try put([], path)
      let file = try FileDescriptor.open(FilePath(path), .readWrite)
      defer { try? file.close() }
      try file.resize(to: 1 << 20)
      for range in [128..<256, 1024..<1032] as [Range<Sector>] {
        _ = try Pattern("file").bytes(range).withUnsafeBytes {
          try file.writeAll(toAbsoluteOffset: Int64(range.lowerBound.bytes), $0)
        }
      }
      let options = FileDevice.Options(isWritable: true, direct: setup.direct)
      let device = try FileDevice.open(path, options, on: loop)
      let all = [
        BlockExtent(0..<128, .zero), BlockExtent(128..<256, .data), BlockExtent(256..<1024, .zero),
        BlockExtent(1024..<1032, .data), BlockExtent(1032..<2048, .zero),
      ]
      #expect(try await device.blockStatus(0..<2048, limit: 100) == all)
      #expect(try await device.blockStatus(0..<2048, limit: 2) == Array(all.prefix(2)))
      #expect(
        try await device.blockStatus(200..<1028, limit: 100) == [
          BlockExtent(200..<256, .data), BlockExtent(256..<1024, .zero),
          BlockExtent(1024..<1028, .data),
        ])
      #expect(
        try await device.blockStatus(1100..<1101, limit: 1) == [BlockExtent(1100..<1101, .zero)])
      #expect(try await device.blockStatus(130..<130, limit: 1) == [])
      // Page by page, as a long walk does it.
      var position: Sector = 0
      var found: [BlockExtent] = []
      while position < device.sectorCount {
        let next = try await device.blockStatus(position..<device.sectorCount, limit: 1)
        found += next
        position = try #require(next.last).sectors.upperBound
      }
      #expect(found == all)
    }
  }

  @Test(arguments: FileSetup.all) func readOnly(setup: FileSetup) async throws {
    try await setup.run { loop, folder in
      let path = "\(folder)/file"
      let bytes = Pattern("file").bytes(0..<64)
      try put(bytes, path)
      let options = FileDevice.Options(isWritable: false, direct: setup.direct)
      let device = try FileDevice.open(path, options, on: loop)
      let pages = await (try PagePool(pageCount: 8)).take(8)
      try await device.read(0..<64, into: pages.buffer)
      #expect(Pattern("file").mismatch(pages.buffer, from: 0) == nil)
      pages.buffer.clear()
      for count in [1, 64] as [Sector] {
        let found = await failure {
          try await device.write(.zero..<count, from: pages.buffer.slice(0, count))
        }
        #expect(found?.sectors == .zero..<count && found?.operation == .write)
      }
      #expect(
        await failure { try await device.writeZeroes(0..<64, mayUnmap: true) } != nil)
      #expect(try get(path) == bytes)
    }
  }
}

/// Opening and making files.
@Suite struct FileOpeningTests {
  private func open(
    _ path: String, isWritable: Bool = false, direct: DirectChoice = .auto, on loop: IOLoop
  ) throws(IOFailure) -> FileDevice {
    try FileDevice.open(path, FileDevice.Options(isWritable: isWritable, direct: direct), on: loop)
  }

  private func withLoop(_ body: (IOLoop, String) throws -> Void) throws {
    let loop = try IOLoop.start(backend: .threads)
    defer { loop.stop() }
    try withTemporaryFolder { folder in try body(loop, folder) }
  }

  @Test(.timeLimit(.minutes(1))) func whatCantBeOpened() throws {
    try withLoop { loop, folder in
      #expect(mkfifo("\(folder)/pipe", 0o600) == 0)
      try FileManager.default.createSymbolicLink(
        atPath: "\(folder)/dangling", withDestinationPath: "\(folder)/nothing")
      let expected: [(String, Errno)] = [
        (folder, .isDirectory), ("\(folder)/missing", .noSuchFileOrDirectory),
        ("\(folder)/dangling", .noSuchFileOrDirectory), ("\(folder)/pipe", .invalidArgument),
        ("/dev/null", .invalidArgument),
      ]
      for (path, errno) in expected {
        for isWritable in [false, true] {
          let found = refusal { try open(path, isWritable: isWritable, on: loop) }
          #expect(found?.errno == errno && found?.operation == .open && found?.device == path)
        }
      }
    }
  }

  @Test func creating() throws {
    try withLoop { loop, folder in
      let path = "\(folder)/new"
      let device = try FileDevice.create(path, byteCount: 5000, on: loop)
      #expect(device.byteCount == 5000 && device.sectorCount == 10)
      #expect(try get(path) == [UInt8](repeating: 0, count: 5000))
      try put([1, 2, 3], "\(folder)/old")
      let existing = refusal { try FileDevice.create("\(folder)/old", byteCount: 5000, on: loop) }
      #expect(existing?.errno == .fileExists)
      #expect(try get("\(folder)/old") == [1, 2, 3])
      for byteCount in [UInt64(Int64.max), .max] {
        let large = refusal {
          try FileDevice.create("\(folder)/large", byteCount: byteCount, on: loop)
        }
        #expect(large?.errno == .fileTooLarge)
      }
      #expect(!FileManager.default.fileExists(atPath: "\(folder)/large"))
    }
  }

  @Test func identity() throws {
    try withLoop { loop, folder in
      let manager = FileManager.default
      try put([1], "\(folder)/file")
      try put([1], "\(folder)/other")
      try manager.createSymbolicLink(
        atPath: "\(folder)/symbolic", withDestinationPath: "file")
      try manager.linkItem(atPath: "\(folder)/file", toPath: "\(folder)/hard")
      let file = try open("\(folder)/file", on: loop).identity
      #expect(try open("\(folder)/symbolic", on: loop).identity == file)
      #expect(try open("\(folder)/hard", isWritable: true, on: loop).identity == file)
      #expect(try open("\(folder)/other", on: loop).identity != file)
      let one = MemoryDevice(sectorCount: 1)
      let two = MemoryDevice(sectorCount: 1)
      #expect(one.identity != two.identity)
    }
  }

  @Test func limitsAndReasons() throws {
    try withLoop { loop, folder in
      try put([UInt8](repeating: 1, count: 4096), "\(folder)/file")
      let device = try open("\(folder)/file", isWritable: true, on: loop)
      #expect(!device.isDirect && !device.isBlockSpecial && device.pageCachedFile != nil)
      #expect(device.directReason.hasPrefix("page cache"))
      #expect(device.limits.supportsFUA && !device.limits.isReadOnly)
      guard Machine.canBypassPageCache(in: Machine.folders[0]) else { return }
      let direct = try open("\(folder)/file", isWritable: true, direct: .on, on: loop)
      #expect(direct.isDirect && direct.pageCachedFile == nil)
      #expect(direct.directReason.hasPrefix("O_DIRECT"))
    }
  }
}
