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

  /// A partition and its disk, a loop device and its file: the same sectors under other names.
  @Test func doubleUseOfWhatLiesOnAnother() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let disk = try world.disk("a")
      // Sectors 1024 to 1535 of the disk, and somewhere on the second one.
      let part = PlacedDisk(
        try world.disk("b"),
        on: DevicePlacement(disk.identity, bytes: 1024 * 512..<1536 * 512, isInOrder: true))
      let volume = PlacedDisk(
        try world.disk("c"),
        on: DevicePlacement(disk.identity, bytes: 0..<2048 * 512, isInOrder: false))
      let devices: [String: any BlockDevice] = ["/disk": disk, "/part": part, "/volume": volume]
      let mapper = DeviceMapper(
        DeviceOpener { (word, _) async throws(IOFailure) in
          guard let device = devices[word] else {
            throw IOFailure(.open, word, errno: .noSuchFileOrDirectory)
          }
          return device
        }, on: loop)
      try await mapper.create("whole", table: "0 1100 linear /disk 0")
      try await mapper.create("beside", table: "0 64 linear /part 76")
      for table in ["0 64 linear /part 0", "0 64 linear /part 75", "0 8 linear /volume 0"] {
        let error = try await refusal { () async throws(DeviceMapperError) in
          try await mapper.create("two", table: table)
        }
        try ensure(
          error.kind == .busy && error.reason.contains("used twice for writing")
            && error.reason.contains("'whole' writes it as '/disk'"), "\(table): \(error)")
      }
      try await mapper.create("reader", table: "0 64 linear /part 0", isReadOnly: true)
      try ensure(await mapper.list() == ["beside", "reader", "whole"], "nothing else")
    }
  }

  /// A COW device that is suspended while a table over it is loaded holds that up for a while only.
  @Test func aLoadDoesntWaitForASuspendedDeviceForGood() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("cow", table: "0 2048 delay /dev/b 0 20")
      try await mapper.create("s")
      let table = "0 512 snapshot /dev/a cow P 8"
      let load = Task(executorPreference: loop) { () async -> DeviceMapperError? in
        do throws(DeviceMapperError) {
          try await mapper.load("s", table)
          return nil
        } catch { return error }
      }
      await loop.sleep(for: .milliseconds(5))
      let begin = loop.now
      try await mapper.suspend("cow")
      let error = await load.value
      try ensure(
        error?.description.contains("it was suspended meanwhile") == true, "\(error as Any)")
      try ensure(begin.duration(to: loop.now) < .seconds(11), "\(begin.duration(to: loop.now))")
      try ensure(!(try await mapper.info("s").hasInactiveTable), "nothing is loaded")
      try await mapper.resume("cow")
      try await mapper.load("s", table)
      try await mapper.resume("s")
      // Requests of users have all the time there is.
      let device = try await world.device("cow")
      try await mapper.suspend("cow")
      let read = Task(executorPreference: loop) { try await device.contents(0..<8) }
      await loop.sleep(for: .seconds(60))
      try await mapper.resume("cow")
      _ = try await read.value
    }
  }

  /// So does a mirror's log while the mirror is resumed: it isn't taken for one that has failed. What the
  /// mirror does by itself has all the time there is.
  @Test func aResumeDoesntWaitForASuspendedLogForGood() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("log", table: "0 2048 delay /dev/b 0 20")
      try await mapper.create("m")
      let table = "0 64 mirror disk 2 log 16 2 /dev/a 0 /dev/c 0"
      try await mapper.load("m", table)
      let resume = Task(executorPreference: loop) { () async -> DeviceMapperError? in
        do throws(DeviceMapperError) {
          try await mapper.resume("m")
          return nil
        } catch { return error }
      }
      await loop.sleep(for: .milliseconds(5))
      let begin = loop.now
      try await mapper.suspend("log")
      let error = await resume.value
      try ensure(
        error?.description.contains("'log'") == true
          && error?.description.contains("it was suspended meanwhile") == true, "\(error as Any)")
      try ensure(begin.duration(to: loop.now) < .seconds(11), "\(begin.duration(to: loop.now))")
      try ensure(!(try await mapper.info("m").hasLiveTable), "nothing runs")
      try await mapper.resume("log")
      try await mapper.load("m", table)
      try await mapper.resume("m")
      // Recovery is under way.
      try await mapper.suspend("log")
      await loop.sleep(for: .seconds(60))
      try await mapper.resume("log")
      await loop.sleep(for: .seconds(1))
      let status = try await mapper.status("m")
      try ensure(status.first?.hasSuffix("4/4 1 AA 3 disk 253:0 A") == true, "\(status)")
    }
  }

  /// A table whose second target refuses at the resume leaves the snapshot of the first one with
  /// whom it was.
  @Test func aHandoverIsUndoneWhenAnotherTargetRefuses() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      let snapshot = "0 64 snapshot /dev/a /dev/b P 8"
      try await world.disk("a").put("old", 0..<64)
      try await mapper.create("log", table: "0 64 zero")
      try await mapper.create("s", table: snapshot)
      try await mapper.create("o", table: "0 64 snapshot-origin /dev/a")
      let (origin, device) = (try await world.device("o"), try await world.device("s"))
      try await origin.put("new", 0..<16)
      try await mapper.load("s", snapshot + "\n64 64 mirror disk 2 log 16 2 /dev/c 0 /dev/c 64")
      try await mapper.suspend("log")
      let error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.resume("s")
      }
      try ensure(error.line == 2 && error.reason.contains("suspended"), "\(error)")
      let info = try await mapper.info("s")
      try ensure(!info.isSuspended && !info.hasInactiveTable && info.sectorCount == 64, "\(info)")
      try ensure(try await device.contents(0..<64) == Pattern("old").bytes(0..<64), "before")
      try await origin.put("newer", 0..<64)
      try ensure(try await device.contents(0..<64) == Pattern("old").bytes(0..<64), "after")
      try await device.put("mine", 8..<16)
      // And a handover that isn't undone goes on to work.
      try await mapper.load("s", snapshot)
      try await mapper.resume("s")
      try ensure(try await device.contents(8..<16) == Pattern("mine").bytes(8..<16), "kept")
      try ensure(
        try await device.contents(16..<64) == Pattern("old").bytes(16..<64), "and the rest")
    }
  }

  /// Parts of a request don't wait for each other, and the failure told is that of the first sector.
  @Test func targetsOfARequestGoTogether() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let lines = (0..<8 as Range<UInt64>).map { "\($0 * 8) 8 delay /dev/a \($0 * 8) 100" }
      try await world.mapper.create("m", table: lines.joined(separator: "\n"))
      let device = try await world.device("m")
      let begin = loop.now
      try await device.put("all", 0..<64)
      try ensure(begin.duration(to: loop.now) < .milliseconds(150), "the time of one")
      try ensure(try await device.contents(3..<61) == Pattern("all").bytes(3..<61), "content")

      // Whichever fails first: the first part does so last, and then the other one.
      var plan = try world.disk("c").plan
      plan.fail(.write, 0..<2048)
      try world.disk("c").plan = plan
      for (name, failing) in [
        ("n", "8 8 delay /dev/c 8 50\n16 8 error"), ("o", "8 8 error\n16 8 delay /dev/c 16 50"),
      ] {
        try await world.mapper.create(
          name, table: "0 8 linear /dev/b 0\n\(failing)\n24 8 linear /dev/b 24")
        let handle = try await world.mapper.open(name)
        do throws(IOFailure) {
          try await handle.device.put(Pattern("all").bytes(0..<32), at: 0)
          throw IOFailure(.write, "it didn't fail", errno: .ioError)
        } catch {
          try ensure(error.sectors == 8..<32, "\(error)")
        }
        await handle.close()
        try await world.mapper.remove(name)
      }
      let read = try await world.disk("b").contents(24..<32)
      try ensure(read == Pattern("all").bytes(0..<32).suffix(8 * 512), "the others are done")
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

/// A disk that lies on another one.
private final class PlacedDisk: ForwardingDevice {
  let underlying: any BlockDevice
  let placements: [DevicePlacement]

  init(_ underlying: any BlockDevice, on placement: DevicePlacement) {
    self.underlying = underlying
    placements = [placement]
  }
}
