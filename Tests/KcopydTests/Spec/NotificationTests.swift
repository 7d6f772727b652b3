import BlockIO
import BlockIOTesting
import Kcopyd
import Testing

/// When notifications come: exactly one per job, on the loop, one at a time.
@Suite struct NotificationTests {
  @Test func aJobIsNotifiedOnceAndAfterTheStartingCall() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let results = Locked<[CopyResult]>([])
      try client.copy(from: source.region, to: [target.region]) { result in
        #expect(loop.isCurrent)
        results.withLock { $0.append(result) }
      }
      #expect(results.value.isEmpty)
      await client.destroy()
      #expect(results.value.map(\.isComplete) == [true])
      #expect(target.holds(source, from: 0, at: 0..<64))
    }
  }

  @Test func anEmptySourceIsNotifiedWithoutAnyIO() throws {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let results = Locked<[CopyResult]>([])
      // Whatever the destinations say: the source alone decides.
      try client.copy(from: disk.region(5..<5), to: [disk.region(0..<64)]) { result in
        results.withLock { $0.append(result) }
      }
      #expect(results.value.isEmpty)
      await client.destroy()
      let result = try #require(results.value.first)
      #expect(result.isComplete && result.ending == .finished)
      #expect(!result.readError && result.writeErrors == 0)
      #expect(disk.log.isEmpty)
    }
  }

  /// Jobs on memory take the same steps, so that both are complete when the first is notified.
  @Test func emptyJobsAndPreparedCallbacksComeBehindCompleteOnes() throws {
    try simulate { loop in
      let source = MemoryDevice(sectorCount: 8)
      let target = MemoryDevice(sectorCount: 8)
      let client = try KcopydClient(subJob: 8, on: loop)
      let order = Locked<[String]>([])
      let token = try client.prepareCallback { _, _ in order.withLock { $0.append("prepared") } }
      try client.copy(from: source.region, to: [target.region]) { _ in
        order.withLock { $0.append("first") }
        token.fire()
        do {
          try client.copy(from: source.region(0..<0), to: [target.region(0..<0)]) { _ in
            order.withLock { $0.append("empty") }
          }
        } catch {
          Issue.record(error)
        }
      }
      try client.copy(from: source.region, to: [target.region]) { _ in
        order.withLock { $0.append("second") }
      }
      await loop.sleep(for: .seconds(1))
      await client.destroy()
      #expect(order.value.prefix(2) == ["first", "second"])
      #expect(order.value.suffix(2).sorted() == ["empty", "prepared"])
    }
  }

  @Test func jobsAreNotifiedInTheOrderInWhichTheyEnd() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop, plan: .slow(0..<8))
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let order = Locked<[Int]>([])
      for (number, start) in [Sector(0), 8].enumerated() {
        let sectors = start..<start + 8
        try client.copy(from: source.region(sectors), to: [target.region(sectors)]) { _ in
          order.withLock { $0.append(number) }
        }
      }
      await client.destroy()
      #expect(order.value == [1, 0])
    }
  }

  @Test func aNotificationMayStartJobs() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let log = Locked<[String]>([])
      try client.copy(from: source.region(0..<32), to: [target.region(0..<32)]) { _ in
        log.withLock { $0.append("first begins") }
        do {
          // Empty as well: even that doesn't get into the middle of this one.
          for sectors in [Sector(32)..<32, 32..<64] {
            try client.copy(from: source.region(sectors), to: [target.region(sectors)]) { _ in
              log.withLock { $0.append("later") }
            }
          }
        } catch {
          Issue.record(error)
        }
        log.withLock { $0.append("first ends") }
      }
      await loop.sleep(for: .seconds(1))
      await client.destroy()
      #expect(log.value == ["first begins", "first ends", "later", "later"])
      #expect(target.holds(source, from: 0, at: 0..<64))
    }
  }

  // MARK: Prepared callbacks

  @Test func aPreparedCallbackGetsWhatItIsFiredWith() throws {
    try simulate { loop in
      let client = try KcopydClient(subJob: 8, on: loop)
      let calls = Locked<[String]>([])
      let tokens = try (0..<3).map { number in
        try client.prepareCallback { readError, writeErrors in
          #expect(loop.isCurrent)
          calls.withLock { $0.append("\(number) \(readError) \(writeErrors)") }
        }
      }
      tokens[2].fire(readError: true, writeErrors: .max)
      tokens[0].fire(writeErrors: 5)
      #expect(calls.value.isEmpty)
      await client.flush()
      #expect(calls.value == ["2 true \(UInt64.max)", "0 false 5"])
      tokens[1].fire()
      await client.destroy()
      #expect(calls.value.last == "1 false 0")
    }
  }

  @Test func destroyWaitsForPreparedCallbacks() throws {
    try simulate { loop in
      let client = try KcopydClient(subJob: 8, on: loop)
      let isDestroyed = Locked(false)
      let token = try client.prepareCallback { _, _ in #expect(!isDestroyed.value) }
      let destroyer = Task(executorPreference: loop) {
        await client.destroy()
        isDestroyed.withLock { $0 = true }
      }
      await loop.sleep(for: .seconds(60))
      #expect(!isDestroyed.value)
      token.fire()
      await destroyer.value
      #expect(isDestroyed.value)
    }
  }

  @Test func aPreparedCallbackThatIsNeverFiredMakesDestroyWaitForEver() {
    #expect(throws: LoopStalled.self) {
      try simulate { loop in
        let client = try KcopydClient(subJob: 8, on: loop)
        let token = try client.prepareCallback { _, _ in }
        await client.destroy()
        withExtendedLifetime(token) {}
      }
    }
  }

  // MARK: Flush and destroy

  @Test func flushWaitsForDueNotificationsOnly() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 8, loop: loop, plan: .slow(0..<8))
      let target = SimulatedDisk("dst", sectorCount: 8, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let log = Locked<[String]>([])
      try client.copy(from: source.region, to: [target.region]) { _ in
        log.withLock { $0.append("copied") }
      }
      let token = try client.prepareCallback { _, _ in log.withLock { $0.append("prepared") } }
      await loop.sleep(for: .milliseconds(500))
      token.fire()
      await client.flush()
      #expect(log.value == ["prepared"])
      await client.destroy()
      #expect(log.value == ["prepared", "copied"])
    }
  }

  @Test func theJobIsOverOnlyWhenItsNotificationHasReturned() throws {
    try simulate { loop in
      let source = SimulatedDisk("src", sectorCount: 64, loop: loop)
      let target = SimulatedDisk("dst", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      let log = Locked<[String]>([])
      try client.copy(from: source.region, to: [target.region]) { _ in
        // Whoever destroys the client is not woken before this has ended.
        do {
          try client.copy(from: source.region(0..<8), to: [target.region(0..<8)]) { _ in }
        } catch {
          log.withLock { $0.append("\(error)") }
        }
        log.withLock { $0.append("notified") }
      }
      await client.destroy()
      log.withLock { $0.append("destroyed") }
      #expect(log.value == ["the client was destroyed", "notified", "destroyed"])
    }
  }

  @Test func everyStartIsRefusedAfterDestroy() async throws {
    try simulate { loop in
      let disk = SimulatedDisk("disk", sectorCount: 64, loop: loop)
      let client = try KcopydClient(subJob: 8, on: loop)
      await client.destroy()
      let (low, high) = (disk.region(0..<8), disk.region(8..<16))
      await #expect(throws: KcopydError.destroyed) { try await client.copy(from: low, to: [high]) }
      await #expect(throws: KcopydError.destroyed) { try await client.zero([low]) }
      await #expect(throws: KcopydError.destroyed) { try await client.compare(low, high) }
      #expect(throws: KcopydError.destroyed) { try client.copy(from: low, to: [high]) { _ in } }
      #expect(throws: KcopydError.destroyed) { try client.zero([low]) { _ in } }
      #expect(throws: KcopydError.destroyed) { try client.prepareCallback { _, _ in } }
      #expect(disk.log.isEmpty)
      // A second time is as good as one.
      await client.destroy()
    }
  }
}
