import BlockIO
import Synchronization

/// The power of a group of simulated disks: goes off for all of them at once, at a chosen point.
///
/// Run a test once undisturbed to learn how many ``operations`` there are; then run it with each
/// `crashPoint` from 0 up to that, and see what a restart makes of the disks.
public final class CrashSwitch: Sendable {
  /// The number of the write, zeroing, discard or flush – over all disks, from 0 on – under which
  /// the power goes off: it has been issued, so that parts of it may have been done.
  public let crashPoint: Int?

  private let state: Mutex<State>

  private struct State {
    var operations = 0
    var isOff = false
    var random: SeededRandom
    var members: [Member] = []

    var disks: [SimulatedDisk] { members.compactMap(\.disk) }
  }

  /// Not held: the disk holds the switch.
  private struct Member {
    weak var disk: SimulatedDisk?
  }

  /// A switch that goes off at `crashPoint`, or only by ``turnOff()``. `seed` decides which sectors
  /// survive.
  public init(crashPoint: Int? = nil, seed: UInt64 = 0) {
    self.crashPoint = crashPoint
    state = Mutex(State(random: SeededRandom(seed: seed)))
  }

  /// How many writes, zeroings, discards and flushes the disks have been given.
  public var operations: Int { state.withLock { $0.operations } }

  /// Whether the power is off.
  public var isOff: Bool { state.withLock { $0.isOff } }

  /// Has `disk` depend on this switch, which it holds.
  func add(_ disk: SimulatedDisk) { state.withLock { $0.members.append(Member(disk: disk)) } }

  /// Takes the power from all disks: see ``SimulatedDisk/crash(random:)``.
  public func turnOff() {
    var (disks, random) = state.withLock { state in
      state.isOff = true
      return (state.disks, state.random.split())
    }
    for disk in disks { disk.crash(random: &random) }
  }

  /// Gives it back to all of them.
  public func turnOn() {
    let disks = state.withLock { state in
      state.isOff = false
      return state.disks
    }
    for disk in disks { disk.powerOn() }
  }

  /// An operation has been issued.
  func count() {
    let number = state.withLock { state in
      defer { state.operations += 1 }
      return state.operations
    }
    if number == crashPoint { turnOff() }
  }
}
