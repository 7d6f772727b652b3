import BlockIO

/// A device that can hold up requests of one kind, so that what is above it stands still at a known
/// point; and one that is broken from some sector on.
final class HeldDevice: BlockDevice {
  enum Kind { case write, flush }

  let below: FileDevice
  private let kind: Kind
  private let brokenFrom: Sector?
  private let turnstile = Turnstile()

  /// - Parameters:
  ///   - kind: what is held, after ``hold(from:)``.
  ///   - sector: writes that reach beyond it fail; nil: none.
  init(_ below: FileDevice, holding kind: Kind, brokenFrom sector: Sector? = nil) {
    self.below = below
    self.kind = kind
    brokenFrom = sector
  }

  var name: String { below.name }
  var sectorCount: Sector { below.sectorCount }
  var byteCount: UInt64 { below.byteCount }
  var limits: DeviceLimits { below.limits }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await below.read(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    if kind == .write { await turnstile.pass() }
    if let brokenFrom, sectors.upperBound > brokenFrom {
      throw .beyondEnd(.write, name, sectors, sectorCount: brokenFrom)
    }
    try await below.write(sectors, from: buffer, options: options)
  }

  func flush() async throws(IOFailure) {
    if kind == .flush { await turnstile.pass() }
    try await below.flush()
  }

  /// Lets `turn` − 1 requests through from now on, and holds those after them.
  func hold(from turn: Int = 1) async { await turnstile.close(letting: turn - 1) }
  func waitUntilHeld(_ count: Int = 1) async { await turnstile.waitUntilHeld(count) }
  func letGo() async { await turnstile.open() }
}

/// Lets everyone through until it is closed.
private actor Turnstile {
  /// How many may still pass; nil: it is open.
  private var left: Int?
  private var held: [CheckedContinuation<Void, Never>] = []
  private var watching: (count: Int, continuation: CheckedContinuation<Void, Never>)?

  func close(letting count: Int) { left = count }

  func pass() async {
    guard let left else { return }
    guard left == 0 else {
      self.left = left - 1
      return
    }
    await withCheckedContinuation { continuation in
      held.append(continuation)
      guard let watching, held.count >= watching.count else { return }
      watching.continuation.resume()
      self.watching = nil
    }
  }

  func waitUntilHeld(_ count: Int) async {
    guard held.count < count else { return }
    await withCheckedContinuation { watching = (count, $0) }
  }

  func open() {
    left = nil
    for continuation in held { continuation.resume() }
    held = []
  }
}
