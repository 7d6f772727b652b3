import BlockIO
import Synchronization
import SystemPackage

/// A disk in memory with all the freedom that a real one has: requests take seeded random times and
/// overtake each other, data move in pieces at any moment between start and end of a request, what
/// isn't flushed is lost or torn when the power goes, sectors go bad.
///
/// Buffers are read and written in the middle of requests, so that memory given back too early
/// shows as wrong data. The same seed and the same requests give the same run.
public final class SimulatedDisk: BlockDevice {
  /// What the disk holds at the beginning.
  public enum Content: Sendable {
    /// A ``Pattern`` of that label.
    case pattern(String)
    /// Zeros, and the disk knows that they are.
    case zeroes
  }

  /// How long the steps of a request take: it has two or more.
  public static let stepLatency = Duration.microseconds(5)...Duration.microseconds(500)

  /// The name.
  public let name: String
  /// What it can do.
  public let limits: DeviceLimits

  let loop: IOLoop
  let state: Mutex<State>
  private let crashSwitch: CrashSwitch?
  private let isOftenQuick: Bool
  /// Decides which writes are done on the spot.
  private let spot: Mutex<SeededRandom>

  /// The limits of a disk that can do everything.
  public static var allCapabilities: DeviceLimits {
    var limits = DeviceLimits()
    limits.supportsFUA = true
    limits.supportsWriteZeroes = true
    limits.supportsDiscard = true
    return limits
  }

  /// A disk.
  ///
  /// - Parameters:
  ///   - name: the name.
  ///   - sectorCount: the size; it is held in memory.
  ///   - content: what is on it; by default the pattern of its name's first six bytes.
  ///   - seed: decides about latencies, order and discarded content.
  ///   - loop: the loop on which it is used.
  ///   - limits: what it can do; emulated where it can't and the protocol wants it.
  ///   - plan: what goes wrong.
  ///   - hasVolatileCache: whether writes need a flush to be durable.
  ///   - crashSwitch: what turns it off together with others.
  ///   - isOftenQuick: whether half of all reads and writes are done on the spot, for those who ask
  ///     for it.
  public init(
    _ name: String, sectorCount: Sector, content: Content? = nil, seed: UInt64 = 0, loop: IOLoop,
    limits: DeviceLimits = allCapabilities, plan: FaultPlan = FaultPlan(),
    hasVolatileCache: Bool = true, crashSwitch: CrashSwitch? = nil, isOftenQuick: Bool = false
  ) {
    self.name = name
    self.limits = limits
    self.loop = loop
    self.crashSwitch = crashSwitch
    self.isOftenQuick = isOftenQuick
    spot = Mutex(SeededRandom(seed: seed &+ 1))
    let all = Sector.zero..<sectorCount
    let contents =
      switch content ?? .pattern(String(name.prefix(6))) {
      case .pattern(let label):
        DiskContents(Pattern(label).bytes(all), zeroes: RangeSet(), isVolatile: hasVolatileCache)
      case .zeroes:
        DiskContents(
          [UInt8](repeating: 0, count: Int(sectorCount.bytes)), zeroes: RangeSet(all),
          isVolatile: hasVolatileCache)
      }
    state = Mutex(State(contents: contents, plan: plan, random: SeededRandom(seed: seed)))
    crashSwitch?.add(self)
  }

  // MARK: Size

  /// The size, as it was when it was last looked at or changed by ``grow(to:)``.
  public var sectorCount: Sector { state.withLock { $0.sectorCount } }

  /// Makes the disk larger; what is new reads as zeros, and the new size is durable.
  public func grow(to sectorCount: Sector) async throws(IOFailure) {
    guard sectorCount > self.sectorCount else { return }
    try await perform(.grow, nil, .none)
    enlarge(to: sectorCount)
    try await refreshSize()
  }

  /// Makes the disk larger behind the back of its users, who see it with ``refreshSize()``.
  public func enlarge(to sectorCount: Sector) {
    state.withLock { $0.contents.grow(to: sectorCount) }
  }

  /// Looks how large the disk is now.
  public func refreshSize() async throws(IOFailure) {
    state.withLock { $0.sectorCount = $0.contents.sectorCount }
  }

  // MARK: Requests

  /// Reads; the data are taken in pieces at seeded moments.
  public func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    precondition(buffer.sectorCount == sectors.length)
    try await perform(.read, sectors, .into(buffer))
  }

  /// Writes; the data land in pieces at seeded moments.
  public func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    precondition(buffer.sectorCount == sectors.length)
    let isDurable = options.contains(.durable)
    try await perform(.write, sectors, .from(buffer), isDurable: isDurable && limits.supportsFUA)
    if isDurable && !limits.supportsFUA { try await flush() }
  }

  /// Reads at once, every now and then.
  public func readNow(
    _ sectors: Range<Sector>, into buffer: IOBuffer
  ) throws(IOFailure) -> Bool {
    precondition(buffer.sectorCount == sectors.length)
    return try performNow(.read, sectors, .into(buffer))
  }

  /// Writes at once, every now and then.
  public func writeNow(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) throws(IOFailure) -> Bool {
    precondition(buffer.sectorCount == sectors.length)
    let isDurable = options.contains(.durable)
    guard limits.supportsFUA || !isDurable else { return false }
    return try performNow(.write, sectors, .from(buffer), isDurable: isDurable)
  }

  private func performNow(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>, _ payload: Payload,
    isDurable: Bool = false
  ) throws(IOFailure) -> Bool {
    guard isOftenQuick, spot.withLock({ $0.chance(1, in: 2) }), plan.delay(of: sectors) == .zero
    else { return false }
    try check(sectors, for: operation)
    let request = Request(
      operation: operation, name: name, sectors: sectors, payload: payload, isDurable: isDurable)
    let now = loop.now
    let course = try state.withLock { (state) throws(IOFailure) in
      try state.begin(request, at: now)
    }
    if operation != .read { crashSwitch?.count() }
    try state.withLock { (state) throws(IOFailure) in
      var failure: IOFailure?
      for step in course.steps where failure == nil { failure = state.take(step, of: course) }
      try state.end(course, failure, at: now)
    }
    return true
  }

  /// Makes sectors zero; from memory where the limits say so.
  public func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    if limits.supportsWriteZeroes {
      return try await perform(.writeZeroes, sectors, .zeroes)
    }
    var rest = sectors
    while !rest.isEmpty {
      let count = min(rest.length, IOBuffer.zeroes.sectorCount)
      let piece = rest.lowerBound..<rest.lowerBound + count
      try await write(piece, from: IOBuffer.zeroes.slice(.zero, count), options: [])
      rest = piece.upperBound..<rest.upperBound
    }
  }

  /// Gives sectors up: each piece of them then has the old data, zeros or trash.
  public func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    guard limits.supportsDiscard else {
      throw IOFailure(.discard, name, sectors, errno: .notSupported)
    }
    try await perform(.discard, sectors, .discarded)
  }

  /// Makes what had completed when it began durable.
  public func flush() async throws(IOFailure) { try await perform(.flush, nil, .none) }

  /// Zeros where zeros were written by command – or nothing on a blank disk –, data elsewhere.
  public func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    precondition(limit > 0)
    try await perform(.blockStatus, sectors, .none)
    let zeroes = state.withLock { $0.contents.zeroes }
    var extents: [BlockExtent] = []
    var position = sectors.lowerBound
    for zero in zeroes.intersection(RangeSet(sectors)).ranges {
      if position < zero.lowerBound {
        extents.append(BlockExtent(position..<zero.lowerBound, .data))
      }
      extents.append(BlockExtent(zero, .zero))
      position = zero.upperBound
    }
    if position < sectors.upperBound {
      extents.append(BlockExtent(position..<sectors.upperBound, .data))
    }
    return Array(extents.prefix(limit))
  }

  /// What a request moves.
  enum Payload: Sendable {
    case none, zeroes, discarded
    case into(IOBuffer)
    case from(IOBuffer)
  }

  /// One request: begin, steps at seeded moments, end.
  private func perform(
    _ operation: IOFailure.Operation, _ sectors: Range<Sector>?, _ payload: Payload,
    isDurable: Bool = false
  ) async throws(IOFailure) {
    if let sectors { try check(sectors, for: operation) }
    let changes = operation != .read && operation != .blockStatus
    if changes, limits.isReadOnly, operation != .flush {
      throw IOFailure(operation, name, sectors, errno: .readOnlyFileSystem)
    }
    let request = Request(
      operation: operation, name: name, sectors: sectors, payload: payload, isDurable: isDurable)
    let start = loop.now
    let course = try state.withLock { (state) throws(IOFailure) in
      try state.begin(request, at: start)
    }
    // Outside of the lock, because the switch takes the power from this disk, too.
    if changes { crashSwitch?.count() }
    var failure: IOFailure?
    for step in course.steps where failure == nil {
      await loop.sleep(for: step.delay)
      failure = state.withLock { $0.take(step, of: course) }
    }
    await loop.sleep(for: course.closing)
    let end = loop.now
    try state.withLock { (state) throws(IOFailure) in try state.end(course, failure, at: end) }
  }

  // MARK: Power

  /// Takes the power away. Each sector written and not covered by a completed flush – or by having
  /// been written durably – keeps what it had or has what was written, each by itself; also those
  /// of requests under way. Requests under way fail, and all new ones until ``powerOn()``, with
  /// the detail ``powerLost``.
  public func crash(random: inout SeededRandom) {
    var own = random.split()
    state.withLock { $0.crash(random: &own) }
  }

  /// Gives the power back; the disk holds what survived.
  public func powerOn() { state.withLock { $0.isPowered = true } }

  /// The ``IOFailure/detail`` of requests that failed for lack of power.
  public static let powerLost = "power lost"

  // MARK: Looking and meddling

  /// What goes wrong from now on.
  public var plan: FaultPlan {
    get { state.withLock { $0.plan } }
    set { state.withLock { $0.plan = newValue } }
  }

  /// What reads of `sectors` would give now, lies aside.
  public func contents(_ sectors: Range<Sector>) -> [UInt8] {
    state.withLock { $0.contents.contents(sectors) }
  }

  /// What the whole disk holds.
  public var contents: [UInt8] { contents(.zero..<sectorCount) }

  /// Sets the content from sector `first` on, as if it had always been there.
  public func fill(from first: Sector = .zero, _ bytes: [UInt8]) {
    precondition(bytes.count % 512 == 0)
    let sectors = first..<first + Sector(holding: UInt64(bytes.count))
    state.withLock { $0.contents.fill(sectors, bytes) }
  }

  /// What isn't `expected` from sector `first` on.
  public func mismatch(from first: Sector = .zero, with expected: [UInt8]) -> ContentMismatch? {
    let sectors = first..<first + Sector(holding: UInt64(expected.count))
    return ContentMismatch(contents(sectors), expected: expected, from: first)
  }

  /// What of `sectors` isn't `pattern`, with the pattern's sector `patternStart` at its beginning –
  /// by default the same sector.
  public func mismatch(
    _ sectors: Range<Sector>, with pattern: Pattern, from patternStart: Sector? = nil
  ) -> ContentMismatch? {
    let start = patternStart ?? sectors.lowerBound
    return mismatch(
      from: sectors.lowerBound, with: pattern.bytes(start..<start + sectors.length))
  }

  /// All requests in the order in which they were issued.
  public var log: [LoggedRequest] { state.withLock { $0.log } }

  /// Forgets the requests so far. None may be under way.
  public func clearLog() {
    state.withLock { state in
      precondition(state.open.isEmpty, "requests are under way")
      state.log = []
    }
  }

  /// How many requests of a kind were issued.
  public func count(of operation: IOFailure.Operation) -> Int {
    state.withLock { $0.log.reduce(0) { $0 + ($1.operation == operation ? 1 : 0) } }
  }

  /// How many requests are under way.
  public var inFlight: Int { state.withLock { $0.open.count } }
}
