import BlockIO
import DeviceMapper

/// A table as the one-step verbs look at it and make it: which target a device is, what it stands
/// on.
struct DeviceTable: Sendable {
  let description: TableDescription

  init(_ text: String, of device: String) throws(ControlFailure) {
    do throws(DeviceMapperError) {
      description = try TableDescription(text)
    } catch {
      throw .refused(error.of(device).description)
    }
  }

  var length: UInt64 { description.sectorCount.rawValue }

  /// What kind of device the one-step verbs take it for.
  enum Shape: Hashable {
    /// One line, all of it at one place.
    case linear(Place)
    /// An origin of snapshots over a device.
    case origin(below: String)
    /// An origin into which a snapshot is merged.
    case merge(below: String, cow: String)
    /// A snapshot.
    case snapshot(below: String, cow: String)
    /// A mirror.
    case mirror(MirrorShape)
    /// Anything else.
    case other
  }

  var shape: Shape {
    guard description.lines.count == 1, let line = description.lines.first else { return .other }
    let words = line.words.map(\.text)
    switch line.target.text {
    case "linear" where words.count == 2:
      return .linear(Place(device: words[0], offset: words[1]))
    case "snapshot-origin" where words.count == 1: return .origin(below: Self.name(words[0]))
    case "snapshot-merge" where words.count >= 2:
      return .merge(below: Self.name(words[0]), cow: words[1])
    case "snapshot" where words.count >= 2:
      return .snapshot(below: Self.name(words[0]), cow: words[1])
    case "mirror": return MirrorShape(words).map { .mirror($0) } ?? .other
    default: return .other
    }
  }

  /// The words that name devices, and only these: a device may be called as any other word is,
  /// `disk` or `P`.
  var devices: Set<String> {
    Set(
      description.lines.flatMap { line -> [String] in
        let words = line.words.map(\.text)
        switch line.target.text {
        case "linear", "flakey", "dust", "snapshot-origin", "error": return Array(words.prefix(1))
        case "snapshot", "snapshot-merge", "log-writes": return Array(words.prefix(2))
        case "delay": return words.indices.filter { $0 % 3 == 0 }.map { words[$0] }
        case "zero": return []
        case "mirror":
          guard let mirror = MirrorShape(words) else { return words }
          return (mirror.log.map { [$0] } ?? []) + mirror.legs.map(\.device) + mirror.options
        default: return words
        }
      }.map(Self.name))
  }

  /// The name of a mapped device, which may also be written as a path.
  private static func name(_ word: String) -> String {
    word.hasPrefix("/dev/mapper/") ? String(word.dropFirst(12)) : word
  }

  /// A table of one line.
  static func text(_ length: UInt64, _ target: String, _ words: [String]) -> String {
    "0 \(length) \(target)" + words.map { " " + TableText.quoted($0) }.joined()
  }
}

/// Where a device begins on another one.
struct Place: Codable, Hashable, Sendable {
  var device: String
  /// In sectors, as the table has it.
  var offset: String

  var words: [String] { [device, offset] }
}

/// The words of a mirror: log, legs, features.
struct MirrorShape: Hashable, Sendable {
  /// The log device; nil: in memory.
  var log: String?
  var region: UInt64
  /// `sync`, `nosync`, or nothing.
  var policy: String?
  var legs: [Place]
  var features: [String]
  /// This program's own words behind the features.
  var options: [String]

  init(
    log: String?, region: UInt64, policy: String? = nil, legs: [Place], features: [String],
    options: [String] = []
  ) {
    self.log = log
    self.region = region
    self.policy = policy
    self.legs = legs
    self.features = features
    self.options = options
  }

  /// What the words of a mirror's line say; nil if they aren't understood.
  init?(_ words: [String]) {
    var rest = words[...]
    func take() -> String? { rest.popFirst() }
    guard let type = take(), let count = take().flatMap({ Int($0) }), count <= rest.count,
      count >= 0
    else { return nil }
    var logWords = rest.prefix(count)
    rest = rest.dropFirst(count)
    if type == "disk" { log = logWords.popFirst() }
    guard let size = logWords.popFirst().flatMap({ UInt64($0) }) else { return nil }
    region = size
    policy = logWords.popFirst()
    guard let legCount = take().flatMap({ Int($0) }), 1...64 ~= legCount else { return nil }
    legs = []
    for _ in 0..<legCount {
      guard let device = take(), let offset = take() else { return nil }
      legs.append(Place(device: device, offset: offset))
    }
    let featureCount = take().flatMap { Int($0) } ?? 0
    guard 0...rest.count ~= featureCount else { return nil }
    features = Array(rest.prefix(featureCount))
    options = Array(rest.dropFirst(featureCount).dropFirst())
  }

  var words: [String] {
    var logWords = [String(region)] + (policy.map { [$0] } ?? [])
    if let log { logWords.insert(log, at: 0) }
    return [log == nil ? "core" : "disk", String(logWords.count)] + logWords
      + [String(legs.count)] + legs.flatMap(\.words)
      + (features.isEmpty && options.isEmpty ? [] : [String(features.count)] + features)
      + (options.isEmpty ? [] : [String(options.count)] + options)
  }

  /// A region that suits a device of that many sectors: 2 MiB, less for small ones.
  static func standardRegion(for length: UInt64) -> UInt64 {
    var region: UInt64 = 4096
    while region > 2, region > length { region /= 2 }
    return region
  }
}

extension DaemonState {
  /// The record of a device that is there, and its table.
  func device(_ name: String) throws(ControlFailure) -> (record: SavedDevice, table: DeviceTable) {
    guard let record = self[device: name] else {
      throw .refused("there is no device '\(name)'; kcopyd dm ls shows those there are")
    }
    guard let text = record.table else {
      throw .refused("'\(name)' has no table; load one, and resume it")
    }
    return (record, try DeviceTable(text, of: name))
  }

  /// The devices that a record's table names.
  func below(_ record: SavedDevice) -> [String] {
    guard let text = record.table, let table = try? DeviceTable(text, of: record.name) else {
      return []
    }
    let words = table.devices
    return devices.map(\.name).filter { $0 != record.name && words.contains($0) }
  }

  /// The devices whose tables name a device.
  func above(_ name: String) -> [String] {
    devices.filter { below($0).contains(name) }.map(\.name)
  }

  /// The records so that each stands behind those its table names, and an origin behind its
  /// snapshots: it must not be written before they are there. In the order of their making where
  /// that leaves a choice.
  var bottomUp: [SavedDevice] {
    var order: [SavedDevice] = []
    var seen = Set<String>()
    func visit(_ record: SavedDevice) {
      guard seen.insert(record.name).inserted else { return }
      for name in below(record) {
        if let other = self[device: name] { visit(other) }
      }
      for name in originBase(record).map(snapshots) ?? [] {
        if let snapshot = self[device: name] { visit(snapshot) }
      }
      order.append(record)
    }
    for record in devices { visit(record) }
    return order
  }

  /// Refuses a device that stands on itself.
  func checkLoop(_ record: SavedDevice) throws(ControlFailure) {
    var seen = Set<String>()
    var next = below(record)
    while let name = next.popLast() {
      if name == record.name {
        throw .refused("'\(name)' would stand on itself: devices form no loops")
      }
      if seen.insert(name).inserted, let other = self[device: name] { next += below(other) }
    }
  }

  /// The first device whose table names a file.
  func user(of file: String) -> String? {
    devices.first { record in
      guard let text = record.table, let table = try? DeviceTable(text, of: record.name) else {
        return false
      }
      return table.devices.contains(file)
    }?.name
  }

  /// Whether a table names a file.
  func uses(_ file: String) -> Bool { user(of: file) != nil }

  /// Whether any table has a file of that name among its words, whatever it is there for, and by
  /// whatever path: the same folder has many.
  func mentions(fileNamed name: String) -> Bool {
    devices.contains { record in
      guard let text = record.table else { return false }
      guard let table = try? DeviceTable(text, of: record.name) else { return true }
      return table.description.lines.contains { line in
        line.words.contains { $0.text == name || $0.text.hasSuffix("/" + name) }
      }
    }
  }

  /// A name that no device has.
  func checkFree(_ name: String) throws(ControlFailure) {
    if self[device: name] != nil { throw .refused("there is a device '\(name)' already") }
  }

  /// Refuses while something long goes on with a device.
  func checkIdle(_ device: String) throws(ControlFailure) {
    if let operation = operation(on: device) { throw operation.refusal }
  }
}

extension SavedOperation {
  /// The COW device of the snapshot that is merged.
  var cow: String? {
    guard let snapshot, let table = try? DeviceTable(snapshot.table ?? "", of: snapshot.name),
      case .snapshot(_, let cow) = table.shape
    else { return nil }
    return cow
  }

  /// Why something else can't be done with its devices.
  var refusal: ControlFailure {
    .refused("\(inWords); wait for its end with kcopyd dm follow \(device)")
  }

  /// What goes on.
  var inWords: String {
    switch kind {
    case .merge: "snapshot '\(snapshot?.name ?? "")' is being merged into '\(device)'"
    case .move: "'\(device)' is being moved to '\(to?.device ?? "")'"
    case .sync: "the legs of '\(device)' are being brought into sync"
    }
  }
}
