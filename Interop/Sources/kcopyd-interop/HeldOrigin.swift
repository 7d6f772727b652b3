import BlockIO

/// An origin that can hold up a flush. A merge flushes its origin once in each step, after the
/// chunks have been copied and before their exceptions are cleared: where this one holds, the merge
/// stands in the middle of that step.
final class HeldOrigin: BlockDevice {
  let below: FileDevice
  private let turnstile: Turnstile

  /// - Parameter step: the flush that is held, counted from 1; nil: none.
  init(_ below: FileDevice, holdingStep step: Int?) {
    self.below = below
    turnstile = Turnstile(holding: step)
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
    try await below.write(sectors, from: buffer, options: options)
  }

  func flush() async throws(IOFailure) {
    await turnstile.pass()
    try await below.flush()
  }

  func waitUntilHeld() async { await turnstile.waitUntilHeld() }
  func letGo() async { await turnstile.letGo() }
}

/// Lets everyone through but the one whose turn it is to be held.
private actor Turnstile {
  private let turn: Int?
  private var count = 0
  private var held: CheckedContinuation<Void, Never>?
  private var watching: CheckedContinuation<Void, Never>?

  init(holding turn: Int?) { self.turn = turn }

  func pass() async {
    count += 1
    guard count == turn else { return }
    await withCheckedContinuation { continuation in
      held = continuation
      watching?.resume()
      watching = nil
    }
  }

  func waitUntilHeld() async {
    guard held == nil else { return }
    await withCheckedContinuation { watching = $0 }
  }

  func letGo() {
    held?.resume()
    held = nil
  }
}
