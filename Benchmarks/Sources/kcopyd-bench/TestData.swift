/// Incompressible bytes. Two seeds make data that differs in every word.
///
/// Zeros would be a lie: some tools, file systems and hosts do not move them.
struct TestData {
  var seed: UInt64

  func fill(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) {
    let firstWord = UInt64(offset / MemoryLayout<UInt64>.size)
    let words = buffer.bindMemory(to: UInt64.self)
    for index in words.indices {
      words[index] = Self.word(seed, firstWord &+ UInt64(index))
    }
  }

  /// SplitMix64: the word at a position needs none of the words before it.
  private static func word(_ seed: UInt64, _ position: UInt64) -> UInt64 {
    var value = seed &+ (position &+ 1) &* 0x9e37_79b9_7f4a_7c15
    value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
    value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
    return value ^ (value >> 31)
  }

  /// Overwrites the first `length` bytes of a file with this data.
  func write(to file: Descriptor, length: Int) throws(BenchmarkError) {
    let block = AlignedBuffer()
    for offset in stride(from: 0, to: length, by: AlignedBuffer.size) {
      try block.withPrefix(length - offset) { part throws(BenchmarkError) in
        fill(part, at: offset)
        try file.write(UnsafeRawBufferPointer(part), at: offset)
      }
    }
  }
}

/// One block of memory that may be used with `O_DIRECT`.
final class AlignedBuffer {
  static let size = 1 << 20
  private let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4096)

  deinit { bytes.deallocate() }

  /// Calls `body` with at most `count` of the bytes.
  func withPrefix<Result>(
    _ count: Int, _ body: (UnsafeMutableRawBufferPointer) throws(BenchmarkError) -> Result
  ) throws(BenchmarkError) -> Result {
    defer { withExtendedLifetime(self) {} }
    return try body(UnsafeMutableRawBufferPointer(rebasing: bytes[..<min(count, Self.size)]))
  }
}
