import BlockIO
@testable import BlockIOTesting
import Kcopyd
import Synchronization
import Testing

/// The disks and clients of a plan, and what has been seen of them so far.
final class SimulationWorld: Sendable {
  let plan: SimulationPlan
  let loop: IOLoop
  let disks: [SimulatedDisk]
  /// What the clients are given instead of the disks; the same except in tests of the tests.
  let devices: [any BlockDevice]
  let throttles: [Throttle]
  let clients: [KcopydClient]
  let notifications = NotificationLedger()
  let sabotage: Sabotage
  private let background = Mutex<[Task<Void, Never>]>([])

  init(_ plan: SimulationPlan, sabotage: Sabotage, on loop: IOLoop) throws {
    self.plan = plan
    self.loop = loop
    self.sabotage = sabotage
    disks = plan.disks.enumerated().map { index, disk in
      let simulated = SimulatedDisk(
        "d\(index)", sectorCount: disk.sectorCount, content: .zeroes, seed: disk.seed, loop: loop,
        limits: disk.limits, plan: sabotage.faults(disk.faults.plan), hasVolatileCache: false)
      simulated.fill(Self.initialContents(index, .zero..<disk.sectorCount))
      return simulated
    }
    devices = disks.map { sabotage.device($0) }
    let throttles = plan.throttles.map {
      Throttle(percent: $0.percent, bytesPerSecond: $0.bytesPerSecond)
    }
    self.throttles = throttles
    clients = try plan.clients.map {
      try KcopydClient(
        pages: $0.pages, subJob: $0.subJob, throttle: $0.throttle.map { throttles[$0] }, on: loop)
    }
  }

  // Made once: thousands of runs start with the same disks.
  private static let contents = (0..<4).map { Pattern("d\($0)").bytes(0..<1000) }

  static func initialContents(_ disk: Int, _ sectors: Range<Sector>) -> [UInt8] {
    contents[disk].copy(at: Int(sectors.lowerBound.bytes), count: Int(sectors.length.bytes))
  }

  func region(_ place: SimulationPlan.Place) -> IORegion {
    IORegion(devices[place.disk], sector: place.sector, count: place.count)
  }

  // MARK: Running

  /// Does what the plan says, and checks it.
  func run() async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for index in plan.lanes.indices {
        group.addTask { try await LaneRunner(world: self, lane: index).run() }
      }
      for (index, change) in plan.throttles.enumerated() {
        group.addTask {
          await self.loop.sleep(for: change.after)
          self.throttles[index].percent = change.laterPercent
          self.throttles[index].bytesPerSecond = change.laterBytesPerSecond
        }
      }
      for (index, prepared) in plan.prepared.enumerated() {
        group.addTask { try await self.run(prepared, number: index) }
      }
      try await group.waitForAll()
    }
    for task in background.withLock({ $0 }) { await task.value }
    for client in clients {
      await client.destroy()
      await #expect(throws: KcopydError.destroyed) { try await client.zero([self.anyRegion]) }
    }
    try checkAtTheEnd()
  }

  private var anyRegion: IORegion { IORegion(devices[0], count: 1) }

  /// Does something after a while, unless it has lost its meaning by then.
  func later(_ delay: Duration, _ body: @escaping @Sendable () -> Void) {
    let task = Task(executorPreference: loop) {
      await self.loop.sleep(for: delay)
      body()
    }
    background.withLock { $0.append(task) }
  }

  private func run(_ prepared: SimulationPlan.Prepared, number: Int) async throws {
    let id = NotificationLedger.ID.prepared(number)
    let client = clients[prepared.client]
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
      do {
        let token = try client.prepareCallback { readError, writeErrors in
          self.notifications.notify(id, client: prepared.client, loop: self.loop) {
            let isRight =
              readError == prepared.readError && writeErrors == prepared.writeErrors
            return isRight ? nil : CheckFailure("a prepared callback with other values")
          }
          continuation.resume()
        }
        notifications.expect(id)
        later(prepared.delay) {
          self.notifications.starting(prepared.client) {
            token.fire(readError: prepared.readError, writeErrors: prepared.writeErrors)
          }
        }
      } catch {
        notifications.report(error)
        continuation.resume()
      }
    }
  }

  // MARK: Afterwards

  private func checkAtTheEnd() throws {
    try notifications.check()
    for (index, disk) in disks.enumerated() {
      let shared = plan.disks[index].shared
      if let mismatch = disk.mismatch(
        from: shared.lowerBound, with: Self.initialContents(index, shared))
      {
        throw CheckFailure("what nobody writes was written: \(mismatch)")
      }
      for request in disk.log {
        switch request.operation {
        case .read, .writeZeroes: break
        case .write where !request.isDurable: break
        default: throw CheckFailure("the engine isn't to do this: \(request)")
        }
      }
    }
  }
}

/// Who has been notified: each job once, none within another one's notification, none within the
/// call that starts it, all on the loop.
final class NotificationLedger: Sendable {
  enum ID: Hashable, Sendable {
    case job(lane: Int, index: Int)
    case prepared(Int)
  }

  private struct State {
    var counts: [ID: Int] = [:]
    var isStarting: Set<Int> = []
    var isNotifying: Set<Int> = []
    var failure: (any Error)?
  }

  private let state = Mutex(State())

  func report(_ error: any Error) {
    state.withLock { $0.failure = $0.failure ?? error }
  }

  func expect(_ id: ID) { state.withLock { $0.counts[id] = 0 } }

  /// Calls `body`, which starts a job.
  func starting<R>(_ client: Int, _ body: () throws -> R) rethrows -> R {
    let isNested = state.withLock { !$0.isStarting.insert(client).inserted }
    defer { if !isNested { state.withLock { _ = $0.isStarting.remove(client) } } }
    return try body()
  }

  /// A notification has come; `body` looks at it.
  func notify(_ id: ID, client: Int, loop: IOLoop, _ body: () -> (any Error)?) {
    state.withLock { state in
      let count = state.counts[id] ?? 0
      state.counts[id] = count + 1
      if count > 0 { state.failure = CheckFailure("\(id) was notified \(count + 1) times") }
      if state.isStarting.contains(client) {
        state.failure = CheckFailure("\(id) was notified within the starting call")
      }
      if !state.isNotifying.insert(client).inserted {
        state.failure = CheckFailure("\(id) was notified within another notification")
      }
      if !loop.isCurrent { state.failure = CheckFailure("\(id) was notified off the loop") }
    }
    let failure = body()
    state.withLock { state in
      state.isNotifying.remove(client)
      state.failure = state.failure ?? failure
    }
  }

  func check() throws {
    try state.withLock { state in
      if let failure = state.failure { throw failure }
      for (id, count) in state.counts where count != 1 {
        throw CheckFailure("\(id) was notified \(count) times")
      }
    }
  }
}
