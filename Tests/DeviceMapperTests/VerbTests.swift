import BlockIO
import BlockIOTesting
@testable import DeviceMapper
import SystemPackage
import Testing

@Suite struct VerbTests {
  @Test func createReloadAndRemove() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("m", table: "0 64 linear /dev/a 0\n64 64 linear /dev/b 128")
      let handle = try await mapper.open("m")
      try await handle.device.put("one", 0..<128)
      try ensure(
        try world.disk("b").mismatch(128..<192, with: Pattern("one"), from: 64) == nil, "b")
      try await mapper.load("m", "0 128 linear /dev/c 0")
      try ensure(try await handle.device.contents(0..<128) == Pattern("one").bytes(0..<128), "live")
      try await mapper.resume("m")
      try ensure(
        try await handle.device.contents(0..<128) == [UInt8](repeating: 0, count: 65536), "new")
      let info = try await mapper.info("m")
      try ensure(info.openCount == 1 && info.hasLiveTable && !info.hasInactiveTable, "\(info)")
      try ensure(info.statistics.writes.bytes == 65536, "\(info.statistics)")
      let busy = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.remove("m")
      }
      try ensure(busy.kind == .busy, "\(busy)")
      await handle.close()
      try await mapper.remove("m")
      try ensure(await mapper.list().isEmpty, "removed")
    }
  }

  @Test(
    arguments: [
      ("0 64 nothing", 1, 3), ("0 64 linear", 1, 4), ("0 64 linear /dev/a", 1, 5),
      ("0 64 linear /dev/a x", 1, 5), ("0 64 linear /dev/a 0 1", 1, 6),
      ("0 64 linear /dev/x 0", 1, 4), ("0 64 linear /dev/a 2000", 1, 5),
      ("0 4096 linear /dev/a 0", 1, 5), ("0 64 linear m 0", 1, 4), ("0 64 linear up 0", 1, 4),
      ("0 8 zero\n8 64 linear /dev/mapper/none 0", 2, 4), ("0 64 zero 1", 1, 4),
      ("0 64 flakey /dev/a 0 0 0", 1, 7), ("0 64 flakey /dev/a 0 1 1 2 drop_writes", 1, 8),
      ("0 64 flakey /dev/a 0 1 1 2 drop_writes error_writes", 1, 10),
      ("0 64 flakey /dev/a 0 1 1 2 drop_writes drop_writes", 1, 10),
      ("0 64 flakey /dev/a 0 1 1 1 corrupt_bio_byte 1 w 1 0", 1, nil),
      ("0 64 flakey /dev/a 0 1 1 6 error_reads corrupt_bio_byte 1 r 1 0", 1, 10),
      ("0 64 delay /dev/a 0", 1, 6), ("0 64 delay /dev/a 0 x", 1, 6),
      ("0 64 dust /dev/a 0 513", 1, 6), ("0 64 dust /dev/a 0 65536", 1, 6),
      ("0 64 log-writes /dev/a /dev/a", 1, 5), ("0 64 snapshot /dev/a /dev/a P 8", 1, 5),
      ("0 64 snapshot /dev/a /dev/b X 8", 1, 6), ("0 64 snapshot /dev/a /dev/b P 9", 1, nil),
      ("0 64 snapshot /dev/a /dev/b P 8 0 1 what", 1, 10),
      ("0 64 mirror core 1 16 1 /dev/a 0", 1, nil),
      ("0 64 mirror core 1 16 2 /dev/a 0 /dev/x 0", 1, 10),
      ("0 64 mirror core 1 16 2 /dev/a 0 /dev/b 0 0 1 what", 1, 14),
    ] as [(String, Int, Int?)])
  func badTables(table: String, line: Int, word: Int?) throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("m", table: "0 64 linear /dev/c 0")
      try await mapper.create("up", table: "0 64 linear m 0")
      let error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.load("m", table)
      }
      try ensure(error.line == line && (word == nil || error.word == word), "\(error)")
      try ensure(error.device == "m", "\(error)")
      // All is as before.
      try await world.device("up").put("one", 0..<64)
      try ensure(!(try await mapper.info("m").hasInactiveTable), "no table")
      try await mapper.remove("up", isDeferred: true)
      try ensure(try world.disk("a").count(of: .write) == 0, "nothing is written")
    }
  }

  @Test func orderOfVerbs() throws {
    try simulate { loop in
      let mapper = MapperWorld(on: loop).mapper
      try await mapper.create("m")
      var error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.resume("m")
      }
      try ensure(error.kind == .state, "\(error)")
      error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.create("m")
      }
      try ensure(error.kind == .exists, "\(error)")
      error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.create("a/b")
      }
      try ensure(error.kind == .name, "\(error)")
      error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.suspend("x")
      }
      try ensure(error.kind == .missing, "\(error)")
      do {
        _ = try await mapper.open("m").device.contents(0..<1)
        throw CheckFailure("read without a table")
      } catch let failure as IOFailure {
        try ensure(failure.errno == .ioError, "\(failure)")
      }
    }
  }

  @Test func doubleUseAndLoops() throws {
    try simulate { loop in
      let mapper = MapperWorld(on: loop).mapper
      try await mapper.create("one", table: "0 64 linear /dev/a 0")
      try await mapper.create("beside", table: "0 64 linear /dev/a 64")
      var error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.create("two", table: "0 64 linear /dev/a 32")
      }
      try ensure(error.kind == .busy && error.reason.contains("'one'"), "\(error)")
      try ensure(await mapper.list() == ["beside", "one"], "two is no more")
      // Suspended, it may hand its sectors over; but then it can't go on.
      try await mapper.suspend("one")
      try await mapper.create("two", table: "0 32 linear /dev/a 32")
      error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.resume("one")
      }
      try ensure(error.kind == .busy, "\(error)")
      try await mapper.load("one", "0 32 linear /dev/a 0\n32 32 linear two 0")
      try await mapper.resume("one")
      error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.load("two", "0 32 linear one 0")
      }
      try ensure(error.word == 4 && error.reason.contains("loop"), "\(error)")
      error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.remove("two")
      }
      try ensure(error.reason.contains("'one'"), "\(error)")
      let records = await mapper.records()
      try ensure(
        (records.firstIndex { $0.name == "two" } ?? 9)
          < (records.firstIndex { $0.name == "one" } ?? 0),
        "\(records)")
      // Made again from what it says.
      let other = MapperWorld(on: loop).mapper
      for record in records { try await other.create(record.name, table: record.table) }
      try ensure(await other.records().map(\.table) == records.map(\.table), "the same tables")
    }
  }

  @Test func eventsAndWaiting() throws {
    try simulate { loop in
      let mapper = MapperWorld(on: loop).mapper
      try await mapper.create("m", table: "0 64 mirror core 1 16 2 /dev/a 0 /dev/b 0")
      let number = try await mapper.wait("m", number: 0)
      try ensure(number == 1, "in sync is event 1, not \(number)")
      try await mapper.rename("m", to: "n")
      try ensure(try await mapper.info("n").eventNumber == 2, "renaming")
      let waiting = Task(executorPreference: loop) { try await mapper.wait("n") }
      await loop.sleep(for: .milliseconds(1))
      waiting.cancel()
      try ensure((try? await waiting.value) == nil, "cancelled")
      let last = Task(executorPreference: loop) { try await mapper.wait("n") }
      await loop.sleep(for: .milliseconds(1))
      try await mapper.remove("n")
      try ensure(try await last.value == 3, "removal")
    }
  }

  @Test func deferredAndForcedRemoval() throws {
    try simulate { loop in
      let mapper = MapperWorld(on: loop).mapper
      try await mapper.create("m", table: "0 64 linear /dev/a 0")
      let handle = try await mapper.open("m")
      try ensure(!(try await mapper.remove("m", isDeferred: true)), "deferred")
      try ensure(try await mapper.info("m").isRemovalDeferred, "flag")
      await handle.close()
      await loop.sleep(for: .milliseconds(1))
      try ensure(await mapper.list().isEmpty, "gone")
      try await mapper.create("m", table: "0 64 linear /dev/a 0")
      let other = try await mapper.open("m")
      let busy = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.remove("m", isForced: true)
      }
      try ensure(busy.kind == .busy, "\(busy)")
      try ensure(try await mapper.table("m") == ["0 64 error "], "error table")
      await other.close()
      try await mapper.remove("m", retries: 2)
    }
  }
}
