public import BlockIO
import Crypto
public import Kcopyd
import Synchronization

/// A hash function for content.
public enum HashAlgorithm: String, Sendable, CaseIterable {
  case sha256, sha384, sha512, blake2b

  /// The length of a digest in bytes.
  public var digestByteCount: Int {
    switch self {
    case .sha256: 32
    case .sha384: 48
    case .sha512, .blake2b: 64
    }
  }
}

/// Hashes the source of a copy while it is copied: as a whole, and window by window.
///
/// Hashing runs on a thread of its own; the bytes of the last sector behind the end of the source
/// aren't hashed. Behind a gap nothing is: there is no digest then.
public final class SourceHash: CopyObserver {
  /// The algorithm.
  public let algorithm: HashAlgorithm
  private let byteCount: UInt64
  private let window: Sector?
  private let loop: IOLoop
  private let state: Mutex<State>

  /// A window's digest.
  public struct Window: Hashable, Sendable {
    /// The bytes of the source, counted from the start of the copy.
    public let bytes: Range<UInt64>
    /// Their digest.
    public let digest: [UInt8]
  }

  private struct State {
    var whole: RunningHash
    var current: RunningHash
    var currentStart: UInt64 = 0
    var windows: [Window] = []
    var position: UInt64 = 0
  }

  /// A hash of `byteCount` bytes, and of each `window` of them.
  public init(
    _ algorithm: HashAlgorithm, byteCount: UInt64, window: Sector? = nil, on loop: IOLoop
  ) {
    precondition(window != .zero)
    self.algorithm = algorithm
    self.byteCount = byteCount
    self.window = window
    self.loop = loop
    state = Mutex(State(whole: RunningHash(algorithm), current: RunningHash(algorithm)))
  }

  public func observe(_ segment: Range<Sector>, _ data: IOBuffer?) async {
    await loop.blocking {
      self.state.withLock {
        guard $0.position == segment.lowerBound.bytes else { return }
        self.take(segment.length, data, &$0)
      }
    }
  }

  private func take(_ count: Sector, _ data: IOBuffer?, _ state: inout State) {
    var done = Sector.zero
    while done < count, state.position < byteCount {
      var length = min(count - done, data == nil ? IOBuffer.zeroes.sectorCount : count - done)
      if let window {
        length = min(length, window - Sector((state.position - state.currentStart) / 512))
      }
      let piece = data?.slice(done, length) ?? IOBuffer.zeroes.slice(.zero, length)
      let bytes = Int(min(length.bytes, byteCount - state.position))
      state.whole.update(piece, byteCount: bytes)
      if window != nil { state.current.update(piece, byteCount: bytes) }
      state.position += UInt64(bytes)
      done += length
      closeWindow(&state)
    }
  }

  private func closeWindow(_ state: inout State) {
    guard let window else { return }
    let bytes = state.currentStart..<state.position
    guard UInt64(bytes.count) == window.bytes || state.position == byteCount else { return }
    state.windows.append(Window(bytes: bytes, digest: state.current.finalize()))
    state.current = RunningHash(algorithm)
    state.currentStart = state.position
  }

  /// The digest of the whole; nil while not all of it has been seen.
  public var digest: [UInt8]? {
    state.withLock { $0.position == byteCount ? $0.whole.finalize() : nil }
  }

  /// The windows that are complete, in ascending order; the last one may be shorter.
  public var windows: [Window] { state.withLock { $0.windows } }
}

/// A hash under way, of any algorithm.
struct RunningHash {
  private enum Function {
    case sha256(SHA256), sha384(SHA384), sha512(SHA512), blake2b(BLAKE2b)
  }

  private var function: Function

  init(_ algorithm: HashAlgorithm) {
    function =
      switch algorithm {
      case .sha256: .sha256(SHA256())
      case .sha384: .sha384(SHA384())
      case .sha512: .sha512(SHA512())
      case .blake2b: .blake2b(BLAKE2b())
      }
  }

  /// Takes in the first `byteCount` bytes of `buffer`; fewer than all only at the end.
  mutating func update(_ buffer: IOBuffer, byteCount: Int) {
    switch function {
    case .sha256(var hash):
      Self.update(&hash, buffer, byteCount)
      function = .sha256(hash)
    case .sha384(var hash):
      Self.update(&hash, buffer, byteCount)
      function = .sha384(hash)
    case .sha512(var hash):
      Self.update(&hash, buffer, byteCount)
      function = .sha512(hash)
    case .blake2b(var hash):
      hash.update(buffer, byteCount: byteCount)
      function = .blake2b(hash)
    }
  }

  private static func update(_ hash: inout some HashFunction, _ buffer: IOBuffer, _ count: Int) {
    buffer.withBytes { bytes in
      // The pointer is used within the call only, which the buffer outlives.
      bytes.extracting(first: count).withUnsafeBytes { hash.update(bufferPointer: $0) }
    }
  }

  func finalize() -> [UInt8] {
    switch function {
    case .sha256(let hash): Array(hash.finalize())
    case .sha384(let hash): Array(hash.finalize())
    case .sha512(let hash): Array(hash.finalize())
    case .blake2b(let hash): hash.finalize()
    }
  }
}

extension [UInt8] {
  /// The bytes as lower-case hexadecimal digits.
  public var hexadecimal: String {
    map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }
}
