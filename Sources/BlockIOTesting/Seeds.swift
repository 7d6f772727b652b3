import BlockIO

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// What failed in a seeded test, with the seed that shows it again.
public struct SeedFailure: Error, CustomStringConvertible {
  /// The seed.
  public let seed: UInt64
  /// What the body threw.
  public let underlying: any Error

  /// A failure of that seed, for tests that go through ``seeds(_:base:)`` themselves.
  public init(seed: UInt64, underlying: any Error) {
    self.seed = seed
    self.underlying = underlying
  }

  /// One line with the way to replay it.
  public var description: String { "\(underlying) (replay with KCOPYD_SEED=\(seed))" }
}

/// The seeds of a test: `count` from `base` on.
///
/// The environment variable `KCOPYD_SEED` reduces them to a single one, to replay it;
/// `KCOPYD_SEEDS` is another count.
public func seeds(_ count: Int, base: UInt64 = 0) -> [UInt64] {
  if let single = environmentNumber("KCOPYD_SEED") { return [single] }
  let number = environmentNumber("KCOPYD_SEEDS") ?? UInt64(count)
  return (0..<number).map { base &+ $0 }
}

/// Calls `body` with each seed of ``seeds(_:base:)``, in order, until it throws.
///
/// - Throws: what `body` threw with the seed that made it.
public func forEachSeed(
  _ count: Int, base: UInt64 = 0, _ body: (UInt64) throws -> Void
) throws(SeedFailure) {
  for seed in seeds(count, base: base) {
    do {
      try body(seed)
    } catch {
      throw SeedFailure(seed: seed, underlying: error)
    }
  }
}

/// As ``forEachSeed(_:base:_:)`` with a body that runs in virtual time, see ``simulate(_:)``.
///
/// - Throws: what `body` threw with the seed that made it.
public func simulateForEachSeed(
  _ count: Int, base: UInt64 = 0, _ body: @escaping @Sendable (UInt64, IOLoop) async throws -> Void
) throws(SeedFailure) {
  try forEachSeed(count, base: base) { seed in
    try simulate { loop in try await body(seed, loop) }
  }
}

/// A check that failed in a simulation, in words. For bodies of ``forEachSeed(_:base:_:)``, which
/// report by throwing, so that the seed comes with it.
public struct CheckFailure: Error, CustomStringConvertible {
  /// What is wrong.
  public let description: String

  /// A failure that says so.
  public init(_ description: String) { self.description = description }
}

/// Throws unless `condition` holds.
///
/// - Throws: ``CheckFailure`` with `message`.
public func ensure(
  _ condition: Bool, _ message: @autoclosure () -> String
) throws(CheckFailure) {
  if !condition { throw CheckFailure(message()) }
}

private func environmentNumber(_ name: String) -> UInt64? {
  guard let value = getenv(name) else { return nil }
  return UInt64(String(cString: value))
}
