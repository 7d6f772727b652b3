import BlockIO
@testable import BlockIOTesting
import Imaging
import SystemPackage

/// A folder on a simulated disk: what isn't synced may be lost or torn when the power goes, each
/// rename happens or doesn't.
final class SimulatedFolder: MapFolder {
  private struct Content {
    var now: [UInt8]
    var durable: [UInt8]
  }

  private struct State {
    var contents: [Int: Content] = [:]
    var count = 0
    var names: [String: Int] = [:]
    var durableNames: [String: Int] = [:]
    /// Changes of names that aren't durable yet.
    var pending: [(name: String, content: Int?)] = []
    var random: SeededRandom
    var failures: [String: Errno] = [:]
    var writes = 0
  }

  private let state: Locked<State>
  private let loop: IOLoop
  private let power: CrashSwitch?

  init(seed: UInt64 = 0, loop: IOLoop, power: CrashSwitch? = nil) {
    state = Locked(State(random: SeededRandom(seed: seed)))
    self.loop = loop
    self.power = power
  }

  /// Lets an operation – `write`, `sync`, `rename`, `syncNames` – fail from now on, or no longer.
  func fail(_ operation: String, _ errno: Errno?) {
    state.withLock { $0.failures[operation] = errno }
  }

  subscript(_ name: String) -> [UInt8]? {
    get { state.withLock { state in state.names[name].flatMap { state.contents[$0]?.now } } }
    set {
      state.withLock { state in
        state.names[name] = nil
        state.durableNames[name] = nil
        guard let newValue else { return }
        state.count += 1
        state.contents[state.count] = Content(now: newValue, durable: newValue)
        state.names[name] = state.count
        state.durableNames[name] = state.count
      }
    }
  }

  var names: [String] { state.withLock { $0.names.keys.sorted() } }

  /// How many files were written.
  var writes: Int { state.withLock { $0.writes } }

  /// What is left after the power has gone.
  func restart() {
    state.withLock { state in
      for change in state.pending where state.random.chance(1, in: 2) {
        state.durableNames[change.name] = change.content
      }
      state.pending = []
      state.names = state.durableNames
      for number in state.contents.keys.sorted() {
        guard let content = state.contents[number], content.now != content.durable else { continue }
        // Some beginning of the one or the other.
        let source = state.random.chance(1, in: 2) ? content.now : content.durable
        let kept = Array(
          source.prefix(Int(state.random.next(upperBound: UInt64(source.count + 1)))))
        state.contents[number] = Content(now: kept, durable: kept)
      }
    }
  }

  /// Begins an operation, may lose the power, and does it – or not, if it did.
  private func perform(
    _ operation: String, _ name: String, _ body: (inout State) -> Void
  ) async throws(IOFailure) {
    let failure = IOFailure(.write, name, errno: .ioError, detail: SimulatedDisk.powerLost)
    guard power?.isOff != true else { throw failure }
    power?.count()
    let wait = state.withLock { $0.random.duration(in: SimulatedDisk.stepLatency) }
    await loop.sleep(for: wait)
    let isOff = power?.isOff == true
    let errno = state.withLock { state -> Errno? in
      if let errno = state.failures[operation] { return errno }
      if !isOff
        || (operation != "sync" && operation != "syncNames" && state.random.chance(1, in: 2))
      {
        body(&state)
      }
      return nil
    }
    if isOff { throw failure }
    if let errno { throw IOFailure(.write, name, errno: errno) }
  }

  func read(_ name: String) async throws(IOFailure) -> [UInt8]? { self[name] }

  func write(_ name: String, _ bytes: [UInt8]) async throws(IOFailure) {
    try await perform("write", name) { state in
      state.writes += 1
      if let number = state.names[name] {
        state.contents[number]?.now = bytes
      } else {
        state.count += 1
        state.contents[state.count] = Content(now: bytes, durable: [])
        state.names[name] = state.count
        state.pending.append((name, state.count))
      }
    }
  }

  func sync(_ name: String) async throws(IOFailure) {
    try await perform("sync", name) { state in
      guard let number = state.names[name] else { return }
      let content = state.contents[number]?.now ?? []
      state.contents[number]?.durable = content
    }
  }

  func rename(_ name: String, to other: String) async throws(IOFailure) {
    try await perform("rename", other) { state in
      let number = state.names.removeValue(forKey: name)
      state.names[other] = number
      state.pending.append((other, number))
      state.pending.append((name, nil))
    }
  }

  func syncNames() async throws(IOFailure) {
    try await perform("syncNames", "folder") { state in
      state.durableNames = state.names
      state.pending = []
    }
  }

  func make<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R { body() }
}
