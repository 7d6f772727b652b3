import Glibc

/// Whether a destination holds the source's bytes – and whether that question is really asked.
enum Verification {
  static func compare(
    _ destination: Descriptor, with source: Descriptor, length: Int
  ) throws(BenchmarkError) {
    let expected = AlignedBuffer()
    let found = AlignedBuffer()
    for offset in stride(from: 0, to: length, by: AlignedBuffer.size) {
      let rest = length - offset
      let difference = try expected.withPrefix(rest) { left throws(BenchmarkError) in
        try found.withPrefix(rest) { right throws(BenchmarkError) in
          try source.read(left, at: offset)
          try destination.read(right, at: offset)
          return firstDifference(left, right)
        }
      }
      guard let difference else { continue }
      throw .wrongData(path: destination.path, offset: offset + difference)
    }
  }

  private static func firstDifference(
    _ left: UnsafeMutableRawBufferPointer, _ right: UnsafeMutableRawBufferPointer
  ) -> Int? {
    // Byte by byte only where the C library has found that there is something to be found.
    if let one = left.baseAddress, let other = right.baseAddress, left.count == right.count,
      memcmp(one, other, left.count) == 0
    {
      return nil
    }
    return zip(left, right).enumerated().first { $0.element.0 != $0.element.1 }?.offset
  }

  /// Plants faults in a tiny copy. A verification that does not find each of them is worth nothing.
  static func provesItself(in folder: TemporaryFolder) throws(BenchmarkError) {
    let length = AlignedBuffer.size + 64 * 1024
    let source = try Descriptor(folder.path("canary-source"), .create)
    let copy = try Descriptor(folder.path("canary-copy"), .create)
    try TestData(seed: 1).write(to: source, length: length)

    try TestData(seed: 2).write(to: copy, length: length)
    try expectFault(at: 0, "a destination that was never written passed") {
      () throws(BenchmarkError) in try compare(copy, with: source, length: length)
    }
    try TestData(seed: 1).write(to: copy, length: length)
    try compare(copy, with: source, length: length)

    for offset in [0, AlignedBuffer.size - 1, AlignedBuffer.size, length - 1] {
      try flipByte(of: copy, at: offset)
      try expectFault(at: offset, "a wrong byte at \(offset) passed") {
        () throws(BenchmarkError) in try compare(copy, with: source, length: length)
      }
      try flipByte(of: copy, at: offset)
    }
  }

  private static func expectFault(
    at offset: Int, _ complaint: String, _ check: () throws(BenchmarkError) -> Void
  ) throws(BenchmarkError) {
    do {
      try check()
    } catch .wrongData(_, offset) {
      return
    }
    throw .canary(complaint)
  }

  private static func flipByte(of file: Descriptor, at offset: Int) throws(BenchmarkError) {
    try AlignedBuffer().withPrefix(1) { byte throws(BenchmarkError) in
      try file.read(byte, at: offset)
      byte[0] ^= 0x01
      try file.write(UnsafeRawBufferPointer(byte), at: offset)
    }
  }
}
