public import BlockIO
import Synchronization
import SystemPackage

/// What a target is made from: its line, and the way to the devices that it names.
public struct TargetContext: Sendable {
  /// The line.
  public let line: TableLine
  /// The mapped device's name.
  public let deviceName: String
  /// Whether the mapped device is only read.
  public let isReadOnly: Bool
  /// Where everything runs.
  public let loop: IOLoop
  /// Takes note that something has happened to the target.
  public let onEvent: @Sendable (TargetEvent) -> Void

  let services: TargetServices
  let claims: DeviceClaims
  let open: @Sendable (TableWord, _ isWritable: Bool) async throws(DeviceMapperError) -> TableDevice

  /// The sectors of the mapped device.
  public var sectors: Range<Sector> { line.sectors }

  /// Opens a device that the line names; the same one for all who name it, as long as a table uses
  /// it.
  ///
  /// - Parameters:
  ///   - access: what is done with it. On a read-only mapped device nothing is written.
  ///   - start: where on it the target begins; nil: the whole device is used.
  ///   - placed: the word that says where the target begins.
  /// - Throws: when there is no such device, or the sectors don't exist on it, or don't begin and
  ///   end with its blocks.
  public func device(
    _ word: TableWord, _ access: DeviceAccess = .write, from start: Sector? = nil,
    placed: TableWord? = nil
  ) async throws(DeviceMapperError) -> TableDevice {
    let isWritable = access == .write && !isReadOnly
    let device = try await opened(word, access, isWritable: isWritable)
    if let start { try check(device, from: start, placed ?? word) }
    let range = start.map { $0..<$0 + sectors.length }
    if isWritable {
      claims.add(DeviceClaim(device: device.device, name: word.text, sectors: range))
    }
    return device
  }

  /// What is shared with a writer is opened for writing, if that is allowed.
  private func opened(
    _ word: TableWord, _ access: DeviceAccess, isWritable: Bool
  ) async throws(DeviceMapperError) -> TableDevice {
    guard access == .readOfShared else { return try await open(word, isWritable) }
    do {
      return try await open(word, true)
    } catch {
      guard error.kind == .io else { throw error }
      return try await open(word, false)
    }
  }

  private func check(
    _ device: TableDevice, from start: Sector, _ place: TableWord
  ) throws(DeviceMapperError) {
    let name = device.word.text
    let (end, overflow) = start.rawValue.addingReportingOverflow(sectors.length.rawValue)
    let whole = device.sectorCount
    guard !overflow, Sector(end) <= whole else {
      throw place.refused(
        "'\(name)' has \(whole.rawValue) sectors; \(sectors.length.rawValue) from"
          + " \(start.rawValue) on are wanted")
    }
    let block = UInt64(device.device.limits.logicalBlock) / Sector.byteCount
    guard block > 1 else { return }
    for (sector, what) in [(start, "the start"), (sectors.length, "the length")]
    where !sector.rawValue.isMultiple(of: block) {
      throw place.refused(
        "\(what) of \(sector.rawValue) sectors is no multiple of the \(block) sectors of a block of"
          + " '\(name)'")
    }
  }

  /// The words of the line, to be taken one after the other.
  var arguments: TargetArguments { TargetArguments(self) }
}

/// What a target does with a device.
public enum DeviceAccess: Sendable {
  /// It reads.
  case read
  /// It reads what others may write through the same opened device, as a snapshot does its origin.
  case readOfShared
  /// It reads and writes.
  case write
}

/// Something that happened to a target.
public struct TargetEvent: Hashable, Sendable, CustomStringConvertible {
  /// What, in words.
  public let description: String
  /// Whether the device's event number counts it, as the kernel would.
  public let isCounted: Bool
  /// Whether somebody should look after it.
  public let isTrouble: Bool

  /// An event.
  public init(_ description: String, isCounted: Bool = true, isTrouble: Bool = false) {
    self.description = description
    self.isCounted = isCounted
    self.isTrouble = isTrouble
  }
}

/// The words of a line, taken one after the other.
struct TargetArguments {
  private let context: TargetContext
  private var rest: ArraySlice<TableWord>
  /// The word taken last.
  private(set) var last: TableWord

  init(_ context: TargetContext) {
    self.context = context
    rest = context.line.words[...]
    last = context.line.target
  }

  var isAtEnd: Bool { rest.isEmpty }
  var count: Int { rest.count }
  /// The word that comes next, or the place where it is missing.
  var upcoming: TableWord { rest.first ?? context.line.end }

  mutating func next(_ what: String) throws(DeviceMapperError) -> TableWord {
    guard let word = rest.popFirst() else {
      throw context.line.end.refused("the \(what) is missing")
    }
    last = word
    return word
  }

  mutating func number(_ what: String) throws(DeviceMapperError) -> UInt64 {
    try next(what).number(what)
  }

  mutating func number<T: FixedWidthInteger>(
    _ what: String, in range: ClosedRange<T>
  ) throws(DeviceMapperError) -> T {
    let word = try next(what)
    let number = try word.number(what)
    guard let number = T(exactly: number), range.contains(number) else {
      throw word.refused(
        "\(word.text) is no \(what); \(range.lowerBound) to \(range.upperBound) are possible")
    }
    return number
  }

  /// The device and the sector on it that the next two words say.
  mutating func mapping(_ access: DeviceAccess = .write) async throws(DeviceMapperError) -> Mapping
  {
    let device = try next("device")
    let placed = try next("start sector on '\(device.text)'")
    let start = Sector(try placed.sector("start sector"))
    let opened = try await context.device(device, access, from: start, placed: placed)
    return Mapping(opened, start: start, sectors: context.sectors)
  }

  func finish() throws(DeviceMapperError) {
    if let word = rest.first { throw word.refused("'\(word.text)' is a word too many") }
  }
}

/// Where sectors of a target lie on a device.
struct Mapping: Sendable {
  let opened: TableDevice
  let start: Sector
  private let origin: Sector

  init(_ opened: TableDevice, start: Sector, sectors: Range<Sector>) {
    self.opened = opened
    self.start = start
    origin = sectors.lowerBound
  }

  var device: any BlockDevice { opened.device }

  /// The sectors there.
  func below(_ sectors: Range<Sector>) -> Range<Sector> {
    sectors.lowerBound - origin + start..<sectors.upperBound - origin + start
  }

  /// A failure there, in sectors of the mapped device.
  func moved(_ failure: IOFailure) -> IOFailure {
    let sectors = failure.sectors.flatMap { failed -> Range<Sector>? in
      guard failed.lowerBound >= start else { return nil }
      return failed.lowerBound - start + origin..<failed.upperBound - start + origin
    }
    return failure.moved(to: sectors)
  }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    do { try await device.read(below(sectors), into: buffer) } catch { throw moved(error) }
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    do {
      try await device.write(below(sectors), from: buffer, options: options)
    } catch { throw moved(error) }
  }

  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    do {
      try await device.writeZeroes(below(sectors), mayUnmap: mayUnmap)
    } catch { throw moved(error) }
  }

  func discard(_ sectors: Range<Sector>) async throws(IOFailure) {
    do { try await device.discard(below(sectors)) } catch { throw moved(error) }
  }

  func flush() async throws(IOFailure) { try await device.flush() }

  func blockStatus(
    _ sectors: Range<Sector>, limit: Int
  ) async throws(IOFailure) -> [BlockExtent] {
    do {
      return try await device.blockStatus(below(sectors), limit: limit).map {
        BlockExtent(
          $0.sectors.lowerBound - start + origin..<$0.sectors.upperBound - start + origin,
          $0.status)
      }
    } catch { throw moved(error) }
  }

  func words(_ labels: DeviceLabels) -> String { "\(labels(opened)) \(start.rawValue)" }
}

extension IOFailure {
  /// The same with other sectors and, in words, the device on which it happened.
  func moved(to sectors: Range<Sector>?) -> IOFailure {
    if isPushedBack { return self }
    return IOFailure(operation, device, sectors, errno: errno, detail: detail)
  }
}
