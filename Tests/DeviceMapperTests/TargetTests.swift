import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

@testable import DeviceMapper

@Suite struct TargetTests {
  /// Status and table lines, to the letter.
  @Test(arguments: [
    ("linear /dev/a 8", "", "/dev/a 8"), ("zero", "", ""), ("error", "", ""),
    ("flakey /dev/a 0 3 1", "", "/dev/a 0 3 1 2 error_reads error_writes"),
    (
      "flakey /dev/a 0 3 1 6 corrupt_bio_byte 32 R 1 0 drop_writes", "",
      "/dev/a 0 3 1 6 drop_writes corrupt_bio_byte 32 r 1 0"
    ),
    ("delay /dev/a 0 5", "0 0 0", "/dev/a 0 5"),
    ("delay /dev/a 0 5 /dev/b 8 0", "0 0 0", "/dev/a 0 5 /dev/b 8 0"),
    ("dust /dev/a 0 512", "/dev/a bypass verbose", "/dev/a 0 512"),
    ("log-writes /dev/a /dev/b", "0 0", "/dev/a /dev/b"),
    ("snapshot-origin /dev/a", "", "/dev/a"),
    ("snapshot /dev/a /dev/b P 16", "32/2048 32", "/dev/a /dev/b P 16"),
    (
      "snapshot /dev/a /dev/b po 16 1 discard_zeroes_cow 4 hold 100 grow_to 4096", "32/2048 32",
      "/dev/a /dev/b PO 16 1 discard_zeroes_cow 4 grow_to 4096 hold 100"
    ),
    (
      "snapshot /dev/a /dev/b N 16 0 2 grow_to 4096", "0/2048 0",
      "/dev/a /dev/b N 16 0 2 grow_to 4096"
    ),
    (
      "mirror core 2 16 nosync 2 /dev/a 0 /dev/b 8 1 handle_errors 1 like_kernel",
      "2 /dev/a /dev/b 4/4 1 AA 1 core",
      "core 2 16 nosync 2 /dev/a 0 /dev/b 8 1 handle_errors 1 like_kernel"
    ),
    (
      "mirror disk 3 /dev/c 16 nosync 2 /dev/a 0 /dev/b 8",
      "2 /dev/a /dev/b 4/4 1 AA 3 disk /dev/c A", "disk 3 /dev/c 16 nosync 2 /dev/a 0 /dev/b 8"
    ),
  ])
  func lines(words: String, status: String, table: String) throws {
    let name = String(words.split(separator: " ")[0])
    try simulate { loop in
      let mapper = MapperWorld(on: loop).mapper
      try await mapper.create("m", table: "0 64 \(words)")
      let said = try await mapper.status("m")
      try ensure(said == ["0 64 \(name) \(status)"], "\(said)")
      let printed = try await mapper.table("m")
      try ensure(printed == ["0 64 \(name) \(table)"], "\(printed)")
      // What is printed is taken again, and says the same.
      try await mapper.remove("m")
      try await mapper.create("m", table: printed[0])
      try ensure(try await mapper.table("m") == printed, "printed again")
      try await mapper.create("n", table: "0 64 linear m 0")
      try ensure(try await mapper.table("n") == ["0 64 linear 253:0 0"], "number")
    }
  }

  /// Reads, writes and flushes while flakey is down: EIO, or well.
  @Test(arguments: [
    ("", false, false), ("1 error_reads", false, true), ("1 drop_writes", true, true),
    ("1 error_writes", true, false),
  ])
  func flakeyDown(features: String, reads: Bool, writes: Bool) throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      try await world.mapper.create("m", table: "0 64 flakey /dev/a 0 2 1 \(features)")
      let device = try await world.device("m")
      try await device.put("one", 0..<8)
      await loop.sleep(for: .seconds(2))
      try ensure(((try? await device.contents(0..<8)) != nil) == reads, "reads")
      try ensure(((try? await device.put("two", 0..<8)) != nil) == writes, "writes")
      try ensure(((try? await device.flush()) != nil) == writes, "flushes")
      await loop.sleep(for: .seconds(1))
      let label = writes && features != "1 drop_writes" ? "two" : "one"
      try ensure(try await device.contents(0..<8) == Pattern(label).bytes(0..<8), "up again")
    }
  }

  @Test func flakeyCorruptsOneByte() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      try await world.mapper.create(
        "m", table: "0 64 flakey /dev/a 0 0 1 5 corrupt_bio_byte 3 w 7 0")
      let device = try await world.device("m")
      try await device.put("one", 0..<1)
      var expected = Pattern("one").bytes(0..<1)
      expected[2] = 7
      try ensure(try await device.contents(0..<1) == expected, "byte 3")
    }
  }

  @Test func delayAndItsEnd() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      try await world.mapper.create("m", table: "0 64 delay /dev/a 0 0 /dev/a 0 60000")
      let device = try await world.device("m")
      let start = loop.now
      let write = Task(executorPreference: loop) { try await device.put("one", 0..<8) }
      await loop.sleep(for: .milliseconds(10))
      try ensure(try await world.mapper.status("m") == ["0 64 delay 0 1 0"], "status")
      try await world.mapper.suspend("m")
      try await write.value
      try ensure(start.duration(to: loop.now) < .seconds(1), "released at once")
      try await world.mapper.resume("m")
      try await device.put("two", 0..<8)
      try ensure(start.duration(to: loop.now) >= .seconds(60), "delayed again")
    }
  }

  @Test func dustAndItsMessages() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("m", table: "0 64 dust /dev/a 8 4096")
      let device = try await world.device("m")
      func say(_ text: String) async throws -> String? { try await mapper.message("m", text) }
      _ = try await say("addbadblock 3 1")
      try ensure(try await device.contents(0..<64).count == 32768, "bypass")
      _ = try await say("enable")
      do {
        _ = try await device.contents(0..<64)
        throw CheckFailure("a bad block was read")
      } catch let failure as IOFailure {
        // Block 3 is sectors 24 to 31 below, 16 to 23 here.
        try ensure(failure.sectors?.lowerBound == 16, "\(failure)")
      }
      try ensure((try? await device.put("one", 0..<64)) == nil, "the first write fails")
      try await device.put("two", 16..<24)
      try ensure(try await device.contents(16..<24) == Pattern("two").bytes(16..<24), "good")
      try ensure(
        try await say("queryblock 3") == "dust_query_block: block 3 not found in badblocklist", "q")
      try ensure(try await say("countbadblocks") == "countbadblocks: 0 badblock(s) found", "count")
      try ensure(try await say("listbadblocks") == "No blocks in badblocklist", "list")
      for bad in ["addbadblock 257", "removebadblock 1", "addbadblock x", "nonsense", "enable 1"] {
        let error = try await refusal { () async throws(DeviceMapperError) in
          try await mapper.message("m", bad)
        }
        try ensure(error.kind == .message, "\(error)")
      }
      try ensure(
        try await mapper.status("m") == ["0 64 dust /dev/a fail_read_on_bad_block verbose"], "s")
    }
  }

  @Test func logWritesOnDisk() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      try await world.mapper.create("m", table: "0 64 log-writes /dev/a /dev/b")
      let handle = try await world.mapper.open("m")
      let device = handle.device
      try await device.put("one", 8..<10)
      try await device.put(Pattern("fua").bytes(0..<1), at: 0, options: .durable)
      try await device.flush()
      _ = try await world.mapper.message("m", "mark here")
      await handle.close()
      try await world.mapper.remove("m")
      let log = try world.disk("b").contents
      func number(_ block: Int, _ word: Int) -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(log[block * 512 + word * 8 + $1]) << UInt64(8 * $1) }
      }
      // The durable one at once; the other with the flush; both marks; the end.
      try ensure((0..<3).map { number(0, $0) } == [0x006A_7366_7773_6872, 1, 5], "super")
      try ensure(number(0, 3) & 0xffff_ffff == 512, "block")
      try ensure((0..<4).map { number(1, $0) } == [0, 1, 2, 0], "durable")
      try ensure(Array(log[1024..<1536]) == Pattern("fua").bytes(0..<1), "data")
      try ensure((0..<4).map { number(3, $0) } == [8, 2, 0, 0], "write")
      try ensure(Array(log[2048..<3072]) == Pattern("one").bytes(8..<10), "data")
      try ensure((0..<4).map { number(6, $0) } == [0, 0, 1, 0], "flush")
      try ensure((0..<4).map { number(7, $0) } == [0, 0, 8, 4], "mark")
      try ensure(Array(log[7 * 512 + 32..<7 * 512 + 36]) == Array("here".utf8), "text")
      try ensure((0..<4).map { number(8, $0) } == [0, 0, 8, 17], "end")
    }
  }

  /// The set-up by hand: a snapshot of a live device, handed over, merged, dropped.
  @Test func snapshotOfALiveDevice() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("base", table: "0 1024 linear /dev/a 0")
      let device = try await world.device("base")
      try await device.put("old", 0..<1024)
      try await mapper.suspend(["base"])
      try await mapper.create("real", table: "0 1024 linear /dev/a 0")
      try await mapper.load("base", "0 1024 snapshot-origin real")
      try await mapper.create("snap", table: "0 1024 snapshot real /dev/b P 16")
      try await mapper.resume("base")
      try await device.put("new", 0..<512)
      let snap = try await world.device("snap")
      try ensure(try await snap.contents(0..<1024) == Pattern("old").bytes(0..<1024), "snapshot")
      try await mapper.load("snap", "0 1024 snapshot real /dev/b P 16")
      try await mapper.resume("snap")
      try ensure(try await snap.contents(0..<1024) == Pattern("old").bytes(0..<1024), "handed over")
      // Merged: the origin is as it was.
      try await mapper.load("base", "0 1024 snapshot-merge real /dev/b P 16")
      try await mapper.load("snap", "0 1024 error")
      try await mapper.suspend(["base", "snap"])
      try await mapper.resume("base")
      try await mapper.resume("snap")
      for _ in 0..<1000 {
        if try await mapper.status("base") == ["0 1024 snapshot-merge 32/2048 32"] { break }
        await loop.sleep(for: .milliseconds(10))
      }
      try await mapper.load("base", "0 1024 linear real 0")
      try await mapper.resume("base")
      try ensure(try await device.contents(0..<1024) == Pattern("old").bytes(0..<1024), "merged")
    }
  }
}
