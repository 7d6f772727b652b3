import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

@testable import DeviceMapper

/// Verbs while requests are under way, beside each other, cut off, and out of turn.
@Suite struct ReloadTests {
  /// Requests of many, while tables change all the time: each is done once, by one of the tables.
  @Test(arguments: [false, true])
  func noRequestIsLost(isNoFlush: Bool) throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("m", table: "0 1024 linear /dev/a 0")
      let device = try await world.device("m")
      let writers = (0..<32 as Range<UInt64>).map { lane in
        Task(executorPreference: loop) {
          for round in 0..<40 as Range<UInt64> {
            try await device.put("\(lane)-\(round)", Sector(lane * 32)..<Sector(lane * 32 + 8))
          }
        }
      }
      for round in 0..<30 {
        await loop.sleep(for: .microseconds(100))
        try await mapper.load("m", "0 1024 linear /dev/\(round.isMultiple(of: 2) ? "b" : "a") 0")
        try await mapper.resume("m", isNoFlush: isNoFlush)
      }
      for writer in writers { try await writer.value }
      let counts = try ["a", "b"].map { try world.disk($0).count(of: .write) }
      try ensure(counts[0] + counts[1] == 32 * 40, "\(counts) writes")
      try ensure(counts[0] > 100 && counts[1] > 100, "both tables were used: \(counts)")
      let statistics = try await mapper.info("m").statistics
      try ensure(
        statistics.writes.operations == 32 * 40 && statistics.writes.errors == 0
          && statistics.inFlight == 0 && statistics.deferred == 0, "\(statistics)")
    }
  }

  /// Verbs on one device follow each other, and those on several devices don't wait for each other
  /// in a circle.
  @Test func verbsBesideEachOther() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("x", table: "0 64 delay /dev/a 0 2")
      try await mapper.create("y", table: "0 64 linear /dev/b 0")
      let device = try await world.device("x")
      try await device.put("all", 0..<64)
      let verbs: [@Sendable () async throws -> Void] = [
        { try await mapper.suspend("x") }, { try await mapper.resume("x") },
        { try await mapper.load("x", "0 64 linear /dev/a 0") }, { try await mapper.clear("x") },
        { try await mapper.suspend(["x", "y"]) }, { try await mapper.suspend(["y", "x"]) },
        { try await mapper.resume(["y", "x"]) }, { try await mapper.resume(["x", "y"]) },
        { _ = try await device.contents(0..<64) },
      ]
      let tasks = (0..<90).map { index in
        Task(executorPreference: loop) { try await verbs[index * 7 % verbs.count]() }
      }
      // Reads wait as long as the device is suspended.
      let ending = Task(executorPreference: loop) {
        await loop.sleep(for: .seconds(1))
        try await mapper.resume(["x", "y"])
      }
      for task in tasks { try await task.value }
      try await ending.value
      try ensure(try await device.contents(0..<64) == Pattern("all").bytes(0..<64), "content")
      try ensure(!(try await mapper.info("x").isSuspended), "x runs")
      try ensure(!(try await mapper.info("y").isSuspended), "y runs")
    }
  }

  /// Of two that remove a device and one that gives it a table, one comes too late.
  @Test func removalBesideOthers() throws {
    try simulate { loop in
      let mapper = MapperWorld(on: loop).mapper
      try await mapper.create("m", table: "0 64 linear /dev/a 0")
      let removals = (0..<2).map { _ in
        Task(executorPreference: loop) { try await mapper.remove("m") }
      }
      let load = Task(executorPreference: loop) { try await mapper.load("m", "0 64 zero") }
      var refusals: [DeviceMapperError] = []
      for removal in removals {
        do { _ = try await removal.value } catch let error as DeviceMapperError {
          refusals.append(error)
        }
      }
      do { try await load.value } catch let error as DeviceMapperError { refusals.append(error) }
      try ensure(refusals.contains { $0.kind == .missing }, "\(refusals)")
      try ensure(refusals.allSatisfy { $0.kind == .missing }, "\(refusals)")
      try ensure(await mapper.list().isEmpty, "removed once")
      // What it stood on is free.
      try await mapper.create("other", table: "0 64 linear /dev/a 0")
    }
  }

  enum Verb: CaseIterable { case suspend, resume, load, create, remove }

  /// Whoever calls a verb and is cancelled leaves the device in order.
  @Test(arguments: Verb.allCases)
  func cancelled(verb: Verb) throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("m", table: "0 64 delay /dev/a 0 20")
      let handle = try await mapper.open("m")
      let write = Task(executorPreference: loop) { try await handle.device.put("all", 0..<64) }
      await loop.sleep(for: .milliseconds(1))
      if verb == .resume { try await mapper.load("m", "0 64 linear /dev/a 0") }
      let task = Task(executorPreference: loop) {
        switch verb {
        case .suspend: try await mapper.suspend("m")
        case .resume: try await mapper.resume("m")
        case .load: try await mapper.load("m", "0 64 snapshot /dev/b /dev/c P 8")
        case .create: try await mapper.create("n", table: "0 64 snapshot /dev/b /dev/c P 8")
        case .remove: try await mapper.remove("m", retries: 1000)
        }
      }
      await loop.sleep(for: .microseconds(10))
      task.cancel()
      let result = await task.result
      try await write.value
      if verb == .remove {
        // Waiting for it to be closed is cut short.
        if case .success = result { throw CheckFailure("removed while open") }
      } else {
        try result.get()
      }
      if verb == .suspend { try ensure(try await mapper.info("m").isSuspended, "suspended") }
      try await mapper.clear("m")
      try await mapper.resume("m")
      try ensure(
        try await handle.device.contents(0..<64) == Pattern("all").bytes(0..<64), "content")
      await handle.close()
      for name in await mapper.list() { try await mapper.remove(name) }
    }
  }

  /// A write that missed a leg and is held: suspended without flushing it is done by the next table;
  /// otherwise it fails.
  @Test(arguments: [true, false])
  func pushedBack(isNoFlush: Bool) throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create(
        "m", table: "0 64 mirror core 2 16 nosync 2 /dev/a 0 /dev/b 0 1 handle_errors")
      let device = try await world.device("m")
      try world.disk("b").plan.fail(.write, 0..<64)
      let write = Task(executorPreference: loop) { try await device.put("all", 8..<16) }
      await loop.sleep(for: .seconds(10))
      try ensure(try await mapper.info("m").statistics.inFlight == 1, "held")
      try await mapper.load("m", "0 64 linear /dev/c 0")
      try await mapper.suspend("m", isNoFlush: isNoFlush)
      await loop.sleep(for: .seconds(1))
      try ensure(try world.disk("c").count(of: .write) == 0, "not yet")
      let deferred = try await mapper.info("m").statistics.deferred
      try ensure(deferred == (isNoFlush ? 1 : 0), "\(deferred) deferred")
      try await mapper.resume("m")
      switch await write.result {
      case .success:
        try ensure(isNoFlush, "a write that should fail")
        try ensure(try world.disk("c").mismatch(8..<16, with: Pattern("all")) == nil, "done")
      case .failure(let error):
        try ensure(!isNoFlush && (error as? IOFailure)?.errno == .ioError, "\(error)")
        try ensure(try world.disk("c").count(of: .write) == 0, "not done")
      }
    }
  }

  /// What has to be read at once isn't waited for.
  @Test func suspendedBelow() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("disk", table: "0 512 linear /dev/b 0")
      try await mapper.create("cow", table: "0 512 linear disk 0")
      try await mapper.create("m", table: "0 64 linear /dev/a 0")
      for (name, reason) in [
        ("cow", "'cow' is suspended"), ("disk", "'cow' stands on 'disk', which is suspended"),
      ] {
        try await mapper.suspend(name)
        let error = try await refusal { () async throws(DeviceMapperError) in
          try await mapper.load("m", "0 64 snapshot /dev/c cow P 8")
        }
        try ensure(
          "\(error)" == "'m' line 1 word 5: \(reason); resume it first" && error.kind == .state,
          "\(error)")
        try await mapper.resume(name)
      }
      let mirror = "0 64 mirror disk 3 cow 16 nosync 2 /dev/a 0 /dev/c 0"
      try await mapper.load("m", mirror)
      try await mapper.suspend("cow")
      let error = try await refusal { () async throws(DeviceMapperError) in
        try await mapper.resume("m")
      }
      try ensure(error.reason == "'cow' is suspended" && error.line == 1, "\(error)")
      // As before, and it can be tried again.
      try await world.device("m").put("all", 0..<64)
      try await mapper.resume("cow")
      try await mapper.load("m", mirror)
      try await mapper.resume("m")
      let status = try await mapper.status("m")
      try ensure(status == ["0 64 mirror 2 /dev/a /dev/c 4/4 1 AA 3 disk 253:1 A"], "\(status)")
    }
  }

  /// Beside other targets `error` has nothing to flush; alone it refuses, as what was written before
  /// can't be flushed any more.
  @Test func flushOfErrors() throws {
    try simulate { loop in
      let world = MapperWorld(on: loop)
      let mapper = world.mapper
      try await mapper.create("m", table: "0 32 linear /dev/a 0\n32 32 error")
      let device = try await world.device("m")
      try await device.put("all", 0..<32)
      try await device.flush()
      try ensure(try world.disk("a").count(of: .flush) == 1, "one flush")
      try await device.put("more", 0..<32)
      try await mapper.wipeTable("m")
      await #expect(throws: IOFailure.self) { try await device.flush() }
    }
  }
}
