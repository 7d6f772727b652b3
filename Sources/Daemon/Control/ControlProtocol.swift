// The control protocol, version 1: how a command talks to the daemon over its Unix socket.
//
// Both sides send JSON objects, one per line. A request, at most `ControlLine.maximum` bytes long,
// is `{"kcopyd":1,"request":{"VERB":{…}}}`; every member but an optional one must be there. The
// answer is any number of `{"kcopyd":1,"reply":{"progress":{…}}}` and then exactly one of
// `{"kcopyd":1,"reply":{"done":{…}}}` and `{"kcopyd":1,"reply":{"failed":{…}}}`. Requests of a
// connection are answered one after the other, in their order. A line that is no request is
// answered by `failed`, and the connection is closed; nothing else is touched. So is a connection whose
// client doesn't read its answers for half a minute, and – when there are too many – the one that has
// been without a request for longest.

/// What a line of the control socket may be.
public enum ControlLine {
  /// The version of the protocol.
  public static let version = 1
  /// The longest request in bytes: room for a table of several thousand lines.
  public static let maximum = 1 << 20
  /// The longest answer in bytes.
  public static let maximumReply = 64 << 20
}

/// A request to the daemon. The verbs of dmsetup have its names and meanings.
public enum ControlRequest: Codable, Hashable, Sendable {
  /// A new device; without a table it stays suspended and empty.
  case create(name: String, uuid: String?, table: String?, readOnly: Bool)
  /// Several new devices, all of them or none.
  case createAll(devices: [DeviceOrder])
  /// A linear device over a file; exported by its name on request.
  case attach(name: String, file: String, readOnly: Bool, export: Bool)
  /// Builds a table in the inactive slot.
  case load(name: String, table: String)
  /// Throws the inactive table away.
  case clear(name: String)
  /// Holds requests back, after those under way have ended.
  case suspend(name: String, noflush: Bool)
  /// Makes the inactive table the live one, if there is one, and lets requests go on.
  case resume(name: String, noflush: Bool)
  /// How the targets are doing; nil: those of all devices.
  case status(name: String?, inactive: Bool)
  /// The tables.
  case table(name: String?, inactive: Bool)
  /// Everything about devices.
  case info(name: String?)
  /// Devices, those included that couldn't come back.
  case list
  /// What devices stand on.
  case deps(name: String?)
  /// A message to the target at a sector.
  case message(name: String, sector: UInt64, text: String)
  /// Returns when the device's event number differs from `event`; nil: from the one it has now.
  case wait(name: String, event: UInt32?)
  /// Takes a device away.
  case remove(name: String, force: Bool, deferred: Bool)
  /// Gives a device another name, or a uuid if it has none.
  case rename(name: String, to: String, isUUID: Bool)
  /// The targets there are.
  case targets
  /// Puts a table that fails every request in place of the live one.
  case wipeTable(name: String, noflush: Bool)

  /// Serves a device over NBD.
  case export(name: String, as: String?, readOnly: Bool)
  /// Stops serving it, after what was accepted is done.
  case unexport(export: String)
  /// What is served.
  case exports

  /// Snapshots of one or several devices, all of one instant.
  case snapshotTake(snapshots: [SnapshotOrder], export: Bool)
  /// Gives a snapshot up. While its own export has clients only if `force` ends their connections;
  /// those of the origin go on.
  case snapshotDrop(name: String, force: Bool)
  /// Merges a snapshot back into its origin while that is in use; its own clients as above.
  case snapshotMerge(name: String, isDetached: Bool, force: Bool)
  /// Adds a leg: a linear device becomes a mirror.
  case mirrorAdd(device: String, leg: String, region: UInt64?, isDetached: Bool)
  /// Takes a leg away that stays as a copy of this instant; with a device of its own on request.
  case mirrorSplit(device: String, leg: String, as: String?)
  /// Takes a leg away that may hold anything.
  case mirrorRemove(device: String, leg: String)
  /// Moves what a device stands on to another file while it is in use.
  case move(device: String, to: String, isDetached: Bool)
  /// Stops moving: everything stays where it was.
  case moveAbort(device: String)
  /// Follows the long operation of a device to its end.
  case follow(device: String)
}

/// A device to be made.
public struct DeviceOrder: Codable, Hashable, Sendable {
  /// Its name.
  public var name: String
  /// Its uuid.
  public var uuid: String?
  /// Its table; nil: it stays suspended and empty.
  public var table: String?
  /// Whether writes are refused.
  public var readOnly: Bool

  /// A device to be made.
  public init(name: String, uuid: String?, table: String?, readOnly: Bool) {
    self.name = name
    self.uuid = uuid
    self.table = table
    self.readOnly = readOnly
  }
}

/// A snapshot to be taken.
public struct SnapshotOrder: Codable, Hashable, Sendable {
  /// The name that the snapshot gets as a device.
  public var name: String
  /// The device it is taken of.
  public var origin: String
  /// Where old data go: a file, made if `size` is given and there is none, or a block special.
  public var cow: String
  /// The size in bytes of a file that is to be made.
  public var size: UInt64?
  /// The size of a chunk in sectors.
  public var chunkSectors: UInt64
  /// Features of the snapshot target: words of its table line behind the chunk size.
  public var features: [String]

  /// A snapshot to be taken.
  public init(
    name: String, origin: String, cow: String, size: UInt64?, chunkSectors: UInt64,
    features: [String] = []
  ) {
    self.name = name
    self.origin = origin
    self.cow = cow
    self.size = size
    self.chunkSectors = chunkSectors
    self.features = features
  }
}

extension SnapshotOrder {
  /// The words behind the chunk size for a COW file that grows, or holds writes when it is full.
  public static func features(growLimitSectors: UInt64?, holdMilliseconds: UInt64?) -> [String] {
    var words: [String] = []
    if let growLimitSectors { words += ["grow_to", String(growLimitSectors)] }
    if let holdMilliseconds { words += ["hold", String(holdMilliseconds)] }
    return words.isEmpty ? [] : ["0", String(words.count)] + words
  }
}

/// A line from the daemon.
public enum ControlReply: Codable, Hashable, Sendable {
  /// How far a long request is.
  case progress(done: UInt64, total: UInt64, text: String)
  /// The end of a request, and what was asked for.
  case done(answer: ControlAnswer)
  /// The end of a request that wasn't done.
  case failed(failure: ControlFailure)
}

/// What a request gave.
public enum ControlAnswer: Codable, Hashable, Sendable {
  /// Nothing but its having been done.
  case nothing
  /// Something in words.
  case text(text: String)
  /// Lines by device: `status`, `table`, `deps`.
  case lines(devices: [DeviceLines])
  /// Devices.
  case devices(devices: [DeviceSummary])
  /// Targets.
  case targets(targets: [TargetSummary])
  /// Exports.
  case exports(exports: [ExportSummary])
  /// An event number.
  case event(number: UInt32)
}

/// Lines about a device.
public struct DeviceLines: Codable, Hashable, Sendable {
  /// The device.
  public var name: String
  /// The lines.
  public var lines: [String]

  /// Lines about a device.
  public init(name: String, lines: [String]) {
    self.name = name
    self.lines = lines
  }
}

/// What `info` and `ls` show of a device.
public struct DeviceSummary: Codable, Hashable, Sendable {
  /// Its name.
  public var name: String
  /// Its uuid.
  public var uuid: String?
  /// Its number.
  public var minor: UInt32
  /// Whether requests are held back.
  public var isSuspended: Bool
  /// Whether writes are refused.
  public var isReadOnly: Bool
  /// Whether there is a live table, and an inactive one.
  public var hasLive: Bool
  /// Whether there is an inactive table.
  public var hasInactive: Bool
  /// How many have it open.
  public var openCount: Int
  /// Its event number.
  public var eventNumber: UInt64
  /// How many targets the live table has.
  public var targetCount: Int
  /// Its size in sectors.
  public var sectorCount: UInt64
  /// Whether it goes when it is no longer open.
  public var isRemovalDeferred: Bool
  /// The long operation under way, in words.
  public var operation: String?
  /// Why it couldn't come back after a restart.
  public var problem: String?
}

/// A target that tables may have.
public struct TargetSummary: Codable, Hashable, Sendable {
  /// Its name.
  public var name: String
  /// Its version, as `v1.2.3`.
  public var version: String
}

/// What `exports` shows.
public struct ExportSummary: Codable, Hashable, Sendable {
  /// The name that clients ask for.
  public var export: String
  /// The device.
  public var device: String
  /// Whether writes are refused.
  public var isReadOnly: Bool
  /// Its size in bytes.
  public var byteCount: UInt64
  /// How many clients it has.
  public var connections: Int
  /// Where to reach it.
  public var uris: [String]
  /// Why it isn't served.
  public var problem: String?
}

/// Why a request wasn't done.
public struct ControlFailure: Error, Codable, Hashable, Sendable, CustomStringConvertible {
  /// What kind of failure.
  public enum Kind: String, Codable, Sendable {
    /// Nothing has been changed: the request doesn't fit what there is.
    case refused
    /// It was begun and couldn't be done; the message says what is where.
    case failed
  }

  /// What kind of failure.
  public var kind: Kind
  /// One line for people.
  public var message: String

  /// A failure.
  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  /// A refusal.
  public static func refused(_ message: String) -> ControlFailure { .init(.refused, message) }

  /// A failure after the beginning.
  public static func failed(_ message: String) -> ControlFailure { .init(.failed, message) }

  public var description: String { message }
}
