import BlockIO

/// BLAKE2b with a digest of 64 bytes and no key (RFC 7693): what `b2sum` prints.
struct BLAKE2b {
  static let digestByteCount = 64
  private static let blockByteCount = 128

  private var state: InlineArray<8, UInt64>
  /// Bytes hashed, those in `block` not counted.
  private var count: UInt64 = 0
  /// The last bytes so far: only more of them, or the end, say how they are hashed.
  private var block = InlineArray<16, UInt64>(repeating: 0)
  private var blockCount = 0

  /// The fractional parts of the square roots of the first eight primes, as in SHA-512.
  private static let start: InlineArray<8, UInt64> = [
    0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1, 0x9b05_688c_2b3e_6c1f, 0x1f83_d9ab_fb41_bd6b, 0x5be0_cd19_137e_2179,
  ]

  /// Which word of the block is mixed in when; rounds 10 and 11 are 0 and 1 again.
  private static let order: InlineArray<10, InlineArray<16, Int>> = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
  ]

  init() {
    state = Self.start
    state[0] ^= 0x0101_0000 ^ UInt64(Self.digestByteCount)
  }

  /// Takes in the first `byteCount` bytes of `buffer`. Only the last call may be for another number
  /// than a multiple of 128.
  mutating func update(_ buffer: IOBuffer, byteCount: Int) {
    precondition(byteCount <= buffer.byteCount && blockCount % Self.blockByteCount == 0)
    var offset = 0
    while offset < byteCount {
      if blockCount == Self.blockByteCount {
        count += UInt64(Self.blockByteCount)
        compress(isLast: false)
      }
      blockCount = min(Self.blockByteCount, byteCount - offset)
      for word in 0..<16 { block[word] = Self.word(buffer, at: offset + 8 * word, end: byteCount) }
      offset += blockCount
    }
  }

  /// A word of the buffer; bytes from `end` on count as zero.
  private static func word(_ buffer: IOBuffer, at offset: Int, end: Int) -> UInt64 {
    guard offset < end else { return 0 }
    let word = buffer.integer(at: offset, as: UInt64.self)
    let rest = end - offset
    return rest >= 8 ? word : word & (1 << UInt64(8 * rest) - 1)
  }

  /// The digest of everything.
  consuming func finalize() -> [UInt8] {
    count += UInt64(blockCount)
    compress(isLast: true)
    return (0..<Self.digestByteCount).map {
      UInt8(truncatingIfNeeded: state[$0 / 8] >> UInt64($0 % 8 * 8))
    }
  }

  private mutating func compress(isLast: Bool) {
    var work = InlineArray<16, UInt64> { $0 < 8 ? state[$0] : Self.start[$0 - 8] }
    work[12] ^= count
    if isLast { work[14] = ~work[14] }
    for round in 0..<12 {
      let order = Self.order[round % 10]
      Self.mix(&work, 0, 4, 8, 12, block[order[0]], block[order[1]])
      Self.mix(&work, 1, 5, 9, 13, block[order[2]], block[order[3]])
      Self.mix(&work, 2, 6, 10, 14, block[order[4]], block[order[5]])
      Self.mix(&work, 3, 7, 11, 15, block[order[6]], block[order[7]])
      Self.mix(&work, 0, 5, 10, 15, block[order[8]], block[order[9]])
      Self.mix(&work, 1, 6, 11, 12, block[order[10]], block[order[11]])
      Self.mix(&work, 2, 7, 8, 13, block[order[12]], block[order[13]])
      Self.mix(&work, 3, 4, 9, 14, block[order[14]], block[order[15]])
    }
    for word in 0..<8 { state[word] ^= work[word] ^ work[word + 8] }
  }

  /// The mixing function G.
  @inline(__always)
  private static func mix(
    _ v: inout InlineArray<16, UInt64>, _ a: Int, _ b: Int, _ c: Int, _ d: Int, _ x: UInt64,
    _ y: UInt64
  ) {
    v[a] = v[a] &+ v[b] &+ x
    v[d] = rotate(v[d] ^ v[a], 32)
    v[c] = v[c] &+ v[d]
    v[b] = rotate(v[b] ^ v[c], 24)
    v[a] = v[a] &+ v[b] &+ y
    v[d] = rotate(v[d] ^ v[a], 16)
    v[c] = v[c] &+ v[d]
    v[b] = rotate(v[b] ^ v[c], 63)
  }

  @inline(__always)
  private static func rotate(_ word: UInt64, _ bits: UInt64) -> UInt64 {
    word &>> bits | word &<< (64 - bits)
  }
}
