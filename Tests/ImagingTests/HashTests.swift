import BlockIO
import BlockIOTesting
import Testing

@testable import Imaging

@Suite struct HashTests {
  private static func hash(_ algorithm: HashAlgorithm, _ text: String) throws -> String {
    let pages = try PagePool.lend(holding: 8)
    pages.buffer.clear()
    var bytes = Array(text.utf8)
    bytes.append(contentsOf: [UInt8](repeating: 0xff, count: pages.buffer.byteCount - bytes.count))
    pages.buffer.load(from: bytes)
    var hash = RunningHash(algorithm)
    hash.update(pages.buffer, byteCount: text.utf8.count)
    return hash.finalize().hexadecimal
  }

  /// RFC 7693, appendix A, and what `b2sum` says of other lengths.
  @Test func blake2b() throws {
    #expect(
      try Self.hash(.blake2b, "abc")
        == "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        + "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923")
    #expect(
      try Self.hash(.blake2b, "")
        == "786a02f742015903c6c6fd852552d272912f4740e15847618a86e217f71f5419"
        + "d25e1031afee585313896444934eb04b903a685b1448b755d56f701afe9be2ce")
  }

  @Test func sha2() throws {
    #expect(
      try Self.hash(.sha256, "abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    #expect(try Self.hash(.sha384, "abc").hasPrefix("cb00753f45a35e8bb5a03d699ac65007"))
    #expect(try Self.hash(.sha512, "abc").hasPrefix("ddaf35a193617abacc417349ae204131"))
  }

  @Test(arguments: HashAlgorithm.allCases)
  func windowsAndHolesMakeTheSameHashes(_ algorithm: HashAlgorithm) async throws {
    let loop = try IOLoop.start()
    defer { loop.stop() }
    let pages = try PagePool.lend(holding: 64)
    let data = pages.buffer.slice(.zero, 64)
    Pattern("src").fill(data, from: 0)
    data.slice(20, 30).clear()
    // Ends within a sector.
    let byteCount = 63 * 512 + 100
    let whole = SourceHash(algorithm, byteCount: UInt64(byteCount), on: loop)
    await whole.observe(0..<64, data)
    let cut = SourceHash(algorithm, byteCount: UInt64(byteCount), window: 24, on: loop)
    await cut.observe(0..<20, data.slice(0, 20))
    #expect(cut.digest == nil)
    await cut.observe(20..<50, nil)
    await cut.observe(50..<64, data.slice(50, 14))
    #expect(cut.digest == whole.digest)
    #expect(cut.windows.map(\.bytes) == [0..<12288, 12288..<24576, 24576..<32356])
    var first = RunningHash(algorithm)
    first.update(data.slice(0, 24), byteCount: 12288)
    #expect(cut.windows.first?.digest == first.finalize())
    #expect(whole.digest?.count == algorithm.digestByteCount)
  }
}
