import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

@Suite struct PagePoolTests {
  @Test func adjacentPagesOnly() throws {
    let pool = try PagePool(pageCount: 4)
    var first = pool.tryTake(1)
    let second = pool.tryTake(1)
    var third = pool.tryTake(1)
    let fourth = pool.tryTake(1)
    #expect(pool.freeCount == 0 && second != nil && fourth != nil)
    third = nil
    first = nil
    #expect(pool.freeCount == 2)
    let gap = pool.tryTake(2) == nil
    #expect(gap, "two pages that aren't adjacent")
    _ = consume first
    _ = consume third
    _ = consume second
    let run = pool.tryTake(3) != nil
    #expect(run, "pages given back weren't joined")
    _ = consume fourth
    #expect(pool.freeCount == 4)
  }

  @Test func alignment() throws {
    for (count, alignment) in [(1, 4096), (511, 4096), (512, 2 << 20), (700, 2 << 20)] {
      let pool = try PagePool(pageCount: count)
      guard let pages = pool.tryTake(count) else { throw CheckFailure("no pages") }
      #expect(pages.buffer.byteCount == count * PagePool.pageSize)
      let address = pages.buffer.withBytes { bytes in
        bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
      }
      #expect(address % UInt(alignment) == 0)
      pages.buffer.clear()
    }
    #expect([0, 1, 8, 9].map { PagePool.pages(holding: $0) } == [0, 1, 1, 2])
  }

  @Test func givingBackEarly() throws {
    let pool = try PagePool(pageCount: 2)
    guard let pages = pool.tryTake(2) else { throw CheckFailure("no pages") }
    #expect(pool.freeCount == 0)
    pages.giveBack()
    #expect(pool.freeCount == 2)
  }

  @Test func moreThanThereIs() {
    let found = refusal { try PagePool(pageCount: Int.max / PagePool.pageSize / 2) }
    #expect(found?.errno == .noMemory && found?.operation == .reservePages)
    #expect(refusal { try PagePool(pageCount: .max) } != nil)
  }

  /// A large request isn't overtaken by small ones that would fit.
  @Test func largeRequestsDontStarve() throws {
    let order = try simulate { loop in
      let pool = try PagePool(pageCount: 4)
      let order = Locked<[Int]>([])
      await withTaskGroup(of: Void.self) { group in
        for (number, count) in [2, 4, 1, 1, 2].enumerated() {
          group.addTask {
            let pages = await pool.take(count)
            order.withLock { $0.append(number) }
            if number == 0 {
              await loop.sleep(for: .seconds(1))
              let isRefused = pool.tryTake(1) == nil
              #expect(isRefused, "someone got pages although others wait")
            }
            await loop.sleep(for: .seconds(1))
            _ = consume pages
          }
        }
      }
      #expect(pool.freeCount == 4)
      return order.value
    }
    #expect(order == [0, 1, 2, 3, 4])
  }

  /// Served in the order of asking; no page is lent twice; all come back and join.
  @Test func randomUse() throws {
    try simulateForEachSeed(60) { seed, loop in
      var random = SeededRandom(seed: seed)
      let pageCount = Int(random.next(upperBound: UInt64(12))) + 1
      let pool = try PagePool(pageCount: pageCount)
      let served = Locked<[Int]>([])
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<24 {
          let count = Int.random(in: 1...pageCount, using: &random)
          let arrival = random.duration(in: .zero ... .seconds(20))
          let stay = random.duration(in: .zero ... .seconds(4))
          group.addTask {
            // Some ask at once, in the order of their numbers.
            if number >= 12 { await loop.sleep(for: arrival) }
            let pages = await pool.take(count)
            if number < 12 { served.withLock { $0.append(number) } }
            let pattern = Pattern("t\(number)")
            pattern.fill(pages.buffer, from: 0)
            await loop.sleep(for: stay)
            if let wrong = pattern.mismatch(pages.buffer, from: 0) { throw wrong }
          }
        }
        try await group.waitForAll()
      }
      try ensure(served.value == Array(0..<12), "served out of order")
      try ensure(pool.freeCount == pageCount, "pages are missing")
      let whole = pool.tryTake(pageCount) != nil
      try ensure(whole, "the reserve is in pieces")
    }
  }

  @Test func fromManyThreads() async throws {
    let pool = try PagePool(pageCount: 8)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for number in 0..<64 {
        group.addTask { @concurrent in
          for _ in 0..<20 {
            let pages = await pool.take(1 + number % 8)
            let pattern = Pattern("t\(number)")
            pattern.fill(pages.buffer, from: 0)
            await Task.yield()
            if let wrong = pattern.mismatch(pages.buffer, from: 0) { throw wrong }
          }
        }
      }
      try await group.waitForAll()
    }
    #expect(pool.freeCount == 8)
  }
}
