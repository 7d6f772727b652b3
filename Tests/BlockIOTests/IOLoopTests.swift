import BlockIO
import BlockIOTesting
import Foundation
import Logging
import SystemPackage
import Testing

/// The loop in virtual time.
@Suite struct SimulatedLoopTests {
  @Test func timersFireInOrder() throws {
    let (order, end) = try simulate { loop in
      let order = Locked<[String]>([])
      await withTaskGroup(of: Void.self) { group in
        for (name, seconds) in [("c", 3), ("a", 1), ("d", 3), ("b", 2), ("now", 0), ("e", 3)] {
          group.addTask {
            await loop.sleep(for: .seconds(seconds))
            order.withLock { $0.append(name) }
          }
        }
      }
      return (order.value, loop.now)
    }
    #expect(order == ["now", "a", "b", "c", "d", "e"])
    #expect(end == LoopInstant(nanoseconds: 3_000_000_000))
  }

  @Test func timePassesOnlyWhenAllWait() throws {
    let instants = try simulate { loop in
      var instants = [loop.now]
      for _ in 0..<1000 { await Task.yield() }
      instants.append(loop.now)
      await loop.sleep(for: .seconds(365 * 86400))
      instants.append(loop.now)
      await loop.sleep(for: .seconds(-5))
      instants.append(loop.now)
      return instants
    }
    let year = LoopInstant(nanoseconds: 365 * 86400 * 1_000_000_000)
    #expect(instants == [LoopInstant(nanoseconds: 0), LoopInstant(nanoseconds: 0), year, year])
  }

  /// Calling a function that is on no actor, and coming back from it, is no turn for others.
  @Test func callsKeepTheTurn() throws {
    let order = try simulate { _ in
      let order = Locked<[String]>([])
      await withTaskGroup(of: Void.self) { group in
        for name in ["a", "b"] {
          group.addTask {
            for _ in 0..<3 { await Self.note(name, in: order) }
          }
        }
      }
      return order.value
    }
    #expect(order == ["a", "a", "a", "b", "b", "b"])
  }

  @concurrent private static func note(_ name: String, in order: Locked<[String]>) async {
    order.withLock { $0.append(name) }
  }

  @Test func stallIsFound() {
    #expect(throws: LoopStalled.self) {
      try simulate { loop in
        let pool = try PagePool(pageCount: 1)
        let all = await pool.take(1)
        await loop.sleep(for: .seconds(1))
        let more = await pool.take(1)
        _ = consume more
        _ = consume all
      }
    }
  }

  @Test func errorsAndResultsComeOut() throws {
    #expect(try simulate { _ in 42 } == 42)
    #expect(throws: CheckFailure.self) { try simulate { _ in throw CheckFailure("no") } }
    #expect(try simulate { $0.backendName } == "simulated")
    #expect(try simulate { $0.isCurrent } == true)
  }

  /// A loop inside of a loop's body is another world.
  @Test func nestedLoops() throws {
    let inner = try simulate { loop in
      await loop.sleep(for: .seconds(1))
      return try simulate { inner in
        await inner.sleep(for: .seconds(5))
        return inner.now
      }
    }
    #expect(inner == LoopInstant(nanoseconds: 5_000_000_000))
  }

  @Test func durations() {
    #expect(Duration.seconds(-2).nanoseconds == -2_000_000_000)
    #expect(Duration.seconds(Int64.max).nanoseconds == .max)
    #expect(Duration.seconds(Int64.min).nanoseconds == .min)
    #expect((Duration.milliseconds(1) + .nanoseconds(1)).nanoseconds == 1_000_001)
    let start = LoopInstant(nanoseconds: 7)
    #expect(start.duration(to: start.advanced(by: .seconds(1))) == .seconds(1))
  }
}

/// The loops with threads.
@Suite struct IOLoopTests {
  /// An actor that lives on a loop.
  private actor Counter {
    nonisolated let loop: IOLoop
    private(set) var count = 0

    init(_ loop: IOLoop) { self.loop = loop }

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    func add() {
      #expect(loop.isCurrent)
      count += 1
    }
  }

  @Test(.enabled(if: Machine.hasRing, "io_uring is refused on this machine"))
  func ringIsUsedWhereItCanBe() async throws {
    #expect(try await onLoop(.uring) { $0.backendName } == "uring")
    #expect(try await onLoop(.auto) { $0.backendName } == "uring")
  }

  @Test func threadsAreUsedWhereAskedFor() async throws {
    #expect(try await onLoop(.threads) { $0.backendName } == "threads")
  }

  @Test(arguments: Machine.backends)
  func workFromManyThreads(backend: BackendChoice) async throws {
    try await onLoop(backend) { loop in
      let counter = Counter(loop)
      await withTaskGroup(of: Void.self) { group in
        for _ in 0..<8 {
          group.addTask { @concurrent in
            for number in 0..<100 {
              if number % 2 == 0 {
                await counter.add()
              } else {
                await Task(executorPreference: loop) {
                  #expect(loop.isCurrent)
                  await counter.add()
                }.value
              }
            }
          }
        }
      }
      #expect(await counter.count == 800)
    }
  }

  @Test(arguments: Machine.backends)
  func realTime(backend: BackendChoice) async throws {
    let order = try await onLoop(backend) { loop in
      let order = Locked<[Int]>([])
      let start = loop.now
      await withTaskGroup(of: Void.self) { group in
        for milliseconds in [120, 40, 80] {
          group.addTask {
            await loop.sleep(for: .milliseconds(milliseconds))
            order.withLock { $0.append(milliseconds) }
          }
        }
      }
      #expect(start.duration(to: loop.now) >= .milliseconds(120))
      return order.value
    }
    #expect(order == [40, 80, 120])
  }

  /// Calls that block run beside each other and beside the loop, up to 16 of them.
  @Test(arguments: Machine.backends)
  func blockingCalls(backend: BackendChoice) async throws {
    try await onLoop(backend) { loop in
      let running = Locked((now: 0, most: 0))
      let gate = DispatchSemaphore(value: 0)
      let results = await withTaskGroup(of: Int.self) { group in
        for number in 0..<40 {
          group.addTask {
            let result = await loop.blocking {
              running.withLock {
                $0.now += 1
                $0.most = max($0.most, $0.now)
              }
              if !loop.isCurrent { gate.wait() }
              running.withLock { $0.now -= 1 }
              return number
            }
            #expect(loop.isCurrent)
            return result
          }
        }
        group.addTask {
          // The loop itself isn't blocked: it opens the gate when all threads wait there.
          while running.value.now < 16 { await loop.sleep(for: .milliseconds(1)) }
          for _ in 0..<40 { gate.signal() }
          return -1
        }
        return await group.reduce(into: Set()) { $0.insert($1) }
      }
      #expect(results == Set(-1..<40))
      #expect(running.value.most == 16)
    }
  }

  /// A stopped loop ends its thread and lets go of everything.
  @Test(arguments: Machine.backends)
  func stopping(backend: BackendChoice) async throws {
    for _ in 0..<10 {
      weak var loop: IOLoop?
      try await { () async throws in
        let started = try IOLoop.start(backend: backend)
        loop = started
        let answer = await Task(executorPreference: started) {
          await started.blocking { 42 }
        }.value
        #expect(answer == 42)
        started.stop()
      }()
      for _ in 0..<2000 where loop != nil { try await Task.sleep(for: .milliseconds(1)) }
      #expect(loop == nil, "the loop is still there after two seconds")
    }
  }

  @Test func choiceIsLogged() async throws {
    let logger = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
    let loop = try IOLoop.start(backend: .auto, logger: logger)
    defer { loop.stop() }
    #expect(["uring", "threads"].contains(loop.backendName))
  }
}
