import BlockIO
import Kcopyd
import Mirrors
import Snapshots
import Synchronization

/// What the targets of all tables of a mapper share.
final class TargetServices: Sendable {
  let loop: IOLoop
  let mirrorConduct: MirrorParameters.Conduct
  let randomSeed: UInt64
  let copyThrottle: Throttle?
  let resyncThrottle: Throttle?
  private let origins = Mutex<[DeviceIdentity: (origin: Origin, users: Int)]>([:])

  init(_ configuration: DeviceMapper.Configuration, on loop: IOLoop) {
    self.loop = loop
    mirrorConduct = configuration.mirrorConduct
    randomSeed = configuration.randomSeed
    copyThrottle = configuration.snapshotCopyThrottle
    resyncThrottle = configuration.mirrorResyncThrottle
  }

  /// The origin of a device: the same for its snapshots and for its snapshot-origin.
  func takeOrigin(_ device: TableDevice) throws(SnapshotError) -> Origin {
    try origins.withLock { (origins) throws(SnapshotError) in
      let identity = device.device.identity
      if let known = origins[identity] {
        origins[identity]?.users += 1
        return known.origin
      }
      let made = try Origin(device.device, throttle: copyThrottle, on: loop)
      origins[identity] = (made, 1)
      return made
    }
  }

  func releaseOrigin(_ origin: Origin) {
    let identity = origin.underlying.identity
    origins.withLock { origins in
      guard let entry = origins[identity] else { return }
      origins[identity] = entry.users > 1 ? (entry.origin, entry.users - 1) : nil
    }
  }
}

extension TargetContext {
  /// A refusal by a module that knows no positions: at the word that it is about, or the first one.
  func refused(_ reason: String, _ words: some Collection<TableWord>) -> DeviceMapperError {
    (word(in: reason, words) ?? words.first ?? line.target).refused(reason)
  }

  /// A refusal of words of a line, where some may be missing.
  func refusedWords(_ reason: String, _ words: [TableWord]) -> DeviceMapperError {
    (word(in: reason, words) ?? line.end).refused(reason)
  }

  /// The word that a reason quotes, or whose number it says first.
  private func word(
    in reason: String, _ words: some Collection<TableWord>
  ) -> TableWord? {
    if let quoted = words.first(where: { reason.contains("'\($0.text)'") }) { return quoted }
    for number in reason.split(separator: " ") where number.allSatisfy(\.isNumber) {
      if let word = words.first(where: { $0.text == number }) { return word }
    }
    return nil
  }
}
