public import BlockIO

/// What a mirror is made with, apart from its devices: the log, legs and features of its table line,
/// and how far it goes beyond the kernel.
public struct MirrorParameters: Hashable, Sendable {
  /// What is done about regions when the mirror is resumed.
  public enum SyncPolicy: String, Sendable {
    /// All are copied, whatever the log says.
    case sync
    /// All count as in sync, whatever the log says.
    case nosync
  }

  /// The size of a region.
  public var regionSize: RegionSize
  /// nil: what the log says; without a log all are copied.
  public var sync: SyncPolicy?
  /// Errors are acted upon: a leg that fails is given up, writes that it missed are held until the
  /// mirror gets another table.
  public var handlesErrors = false
  /// With ``handlesErrors``: a leg that fails is kept track of in the log, and writes go on.
  public var keepsLog = false
  /// Where this mirror does better than the kernel's, within the same format.
  public var conduct = Conduct()

  /// Parameters.
  public init(regionSize: RegionSize) { self.regionSize = regionSize }

  /// The most and the fewest legs.
  public static let legCount = 2...9

  /// Ways to behave; by default the better ones. ``kernel`` has all as the kernel does it.
  public struct Conduct: Hashable, Sendable {
    /// How many pieces are recovered at once.
    public var recoveriesInFlight = 3
    /// The most that one recovery copies, unless a region is larger.
    public var recoveryPiece = Sector(holding: 8 << 20)
    /// How long a region must have been idle before it is called clean: regions that are written
    /// again and again cost no log write then.
    public var cleaningDelay = Duration.milliseconds(500)
    /// Reads go to the leg with the fewest requests under way.
    public var balancesReads = true
    /// What one leg can't read is written to it again from another one.
    public var repairsReads = true
    /// Regions whose recovery failed are tried again, at first after that long.
    public var retryDelay: Duration? = .seconds(1)
    /// It is known of every region which legs have what was acknowledged: reads, writes and
    /// recovery of regions out of sync use these. The kernel uses the default leg, even where that
    /// is the one that missed a write.
    public var tracksStaleLegs = true
    /// Without a sidecar the first leg is the right one where they differ after a restart, as in
    /// the kernel. Otherwise a mirror with a log that isn't in sync is refused then.
    public var trustsFirstLeg = true
    /// A region whose recovery failed doesn't count as in sync without `handle_errors`.
    public var remembersFailedRecovery = true
    /// A discard marks its regions dirty, as a write does.
    public var marksDiscards = true

    /// The better ways.
    public init() {}

    /// What the kernel does.
    public static let kernel: Conduct = {
      var conduct = Conduct()
      conduct.recoveriesInFlight = 1
      conduct.recoveryPiece = .zero
      conduct.cleaningDelay = .zero
      conduct.balancesReads = false
      conduct.repairsReads = false
      conduct.retryDelay = nil
      conduct.tracksStaleLegs = false
      conduct.remembersFailedRecovery = false
      conduct.marksDiscards = false
      return conduct
    }()
  }
}

/// The words of a mirror's table line, from behind the target's name on; devices still as words.
public struct MirrorTable: Hashable, Sendable {
  /// The log device; nil: the log is in memory.
  public var log: String?
  /// The legs, each with the sector at which it begins.
  public var legs: [Leg]
  /// Everything else.
  public var parameters: MirrorParameters

  /// A leg of a table line.
  public struct Leg: Hashable, Sendable {
    /// The device.
    public var device: String
    /// Where on it the mirror begins.
    public var offset: Sector

    /// A leg.
    public init(device: String, offset: Sector) {
      self.device = device
      self.offset = offset
    }
  }

  /// Reads the words: `core|disk #args args… #legs {device offset}… [#features feature…]`.
  ///
  /// - Parameter length: the length of the mirror in sectors.
  /// - Throws: what is wrong with them, in the terms of the table.
  public init(words: [String], length: Sector) throws(MirrorError) {
    var rest = WordReader(words)
    let type = try rest.next("log type")
    let logWords = try rest.group("log argument", 1...3)
    (log, parameters) = try Self.log(type, logWords, length)
    let legWords = try rest.count("leg", MirrorParameters.legCount)
    legs = []
    for _ in 0..<legWords {
      let device = try rest.next("leg")
      let text = try rest.next("offset of a leg")
      guard let offset = UInt64(text), !Sector(offset).bytesOverflow else {
        throw .arguments("'\(text)' is no offset in sectors")
      }
      legs.append(Leg(device: device, offset: Sector(offset)))
    }
    if rest.isAtEnd { return }
    for feature in try rest.group("feature", 0...2) {
      switch feature {
      case "handle_errors": parameters.handlesErrors = true
      case "keep_log": parameters.keepsLog = true
      default: throw .arguments("unknown feature '\(feature)'")
      }
    }
    if parameters.keepsLog, !parameters.handlesErrors {
      throw .arguments("keep_log needs handle_errors")
    }
    guard rest.isAtEnd else { throw .arguments("too many words") }
  }

  private static func log(
    _ type: String, _ words: [String], _ length: Sector
  ) throws(MirrorError) -> (String?, MirrorParameters) {
    let device: String?
    var words = words[...]
    switch type {
    case "core": device = nil
    case "disk":
      device = words.popFirst()
      if words.isEmpty { throw .arguments("a disk log needs a device and a region size") }
    default: throw .arguments("unknown log type '\(type)'; core or disk")
    }
    guard let text = words.popFirst(), let sectors = UInt64(text) else {
      throw .arguments("the region size is missing, or no number")
    }
    var parameters = MirrorParameters(
      regionSize: try MirrorError.regionSize(Sector(sectors), for: length))
    if let word = words.popFirst() {
      guard let policy = MirrorParameters.SyncPolicy(rawValue: word) else {
        throw .arguments("'\(word)' is neither sync nor nosync")
      }
      parameters.sync = policy
    }
    if !words.isEmpty { throw .arguments("too many log arguments") }
    return (device, parameters)
  }

  /// The words as the kernel prints them.
  public var words: String {
    var words = parameters.logWords(log: log)
    words += " \(legs.count)"
    for leg in legs { words += " \(leg.device) \(leg.offset.rawValue)" }
    return words + parameters.featureWords
  }
}

extension MirrorParameters {
  fileprivate func logWords(log: String?) -> String {
    let count = (log == nil ? 1 : 2) + (sync == nil ? 0 : 1)
    let policy = sync.map { " \($0.rawValue)" } ?? ""
    let device = log.map { "\($0) " } ?? ""
    return
      "\(log == nil ? "core" : "disk") \(count) \(device)\(regionSize.sectors.rawValue)\(policy)"
  }

  fileprivate var featureWords: String {
    if keepsLog { return " 2 handle_errors keep_log" }
    return handlesErrors ? " 1 handle_errors" : ""
  }
}

/// Words taken one after the other.
private struct WordReader {
  private var words: ArraySlice<String>

  init(_ words: [String]) { self.words = words[...] }

  var isAtEnd: Bool { words.isEmpty }

  mutating func next(_ what: String) throws(MirrorError) -> String {
    guard let word = words.popFirst() else { throw .arguments("the \(what) is missing") }
    return word
  }

  mutating func count(_ what: String, _ allowed: ClosedRange<Int>) throws(MirrorError) -> Int {
    let word = try next("number of \(what)s")
    guard let count = Int(word), allowed.contains(count) else {
      throw .arguments(
        "'\(word)' is no number of \(what)s; \(allowed.lowerBound) to \(allowed.upperBound)")
    }
    return count
  }

  mutating func group(
    _ what: String, _ allowed: ClosedRange<Int>
  ) throws(MirrorError) -> [String] {
    let count = try count(what, allowed)
    var group: [String] = []
    for _ in 0..<count { group.append(try next(what)) }
    return group
  }
}
