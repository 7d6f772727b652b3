import Foundation
import Testing

@Suite struct OtherCommandTests {
  let folder: Folder
  let data = pattern(100 * 512)

  init() throws {
    folder = try Folder()
    try folder.write("a", data)
  }

  @Test func `the same is the same`() throws {
    try folder.write("b", data)
    let outcome = try Command.run("compare", "a", "b", in: folder)
    #expect(outcome.status == 0)
    #expect(outcome.output == "the same: 100 sectors\n")
  }

  @Test func `differences are found by sector`() throws {
    var other = data
    for sector in [7, 8, 50] { other[sector * 512 + 100] ^= 1 }
    try folder.write("b", other)
    let outcome = try Command.run("compare", "a", "b", in: folder)
    #expect(outcome.status == 1)
    #expect(
      outcome.output
        == "'a' and 'b' differ: first at sector 7, 3 of 100 sectors\n  7–8, 50\n")
    #expect(
      try Command.run("compare", "a", "b", "--from", "9", "--to", "9", "--count", "41", in: folder)
        .status == 0)
  }

  @Test func `sizes that differ are a difference`() throws {
    try folder.write("b", data + Data([0]))
    let outcome = try Command.run("compare", "a", "b", in: folder)
    #expect(outcome.status == 1)
    #expect(outcome.output == "the sizes differ: 'a' has 51200 bytes, 'b' has 51201\n")
  }

  @Test func `the comparison as JSON`() throws {
    var other = data
    other[512] ^= 1
    try folder.write("b", other)
    let outcome = try Command.run("compare", "a", "b", "--json", in: folder)
    #expect(outcome.status == 1)
    let json = try #require(
      try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any])
    #expect(json["equal"] as? Bool == false)
    #expect(json["firstDifference"] as? Int == 1)
    #expect(json["sectorsDiffering"] as? Int == 1)
  }

  @Test func `zeros exactly the named part`() throws {
    try folder.write("b", data)
    #expect(
      try Command.run("zero", "a", "b", "--to", "3", "--count", "11", in: folder).status == 0)
    var expected = data
    expected.replaceSubrange(3 * 512..<14 * 512, with: Data(count: 11 * 512))
    #expect(try folder.read("a") == expected)
    #expect(try folder.read("b") == expected)
  }

  @Test func `zeros a whole file of odd size without making it longer`() throws {
    try folder.write("odd", pattern(1001))
    #expect(try Command.run("zero", "odd", in: folder).status == 0)
    #expect(try folder.read("odd") == Data(count: 1001))
    let json = try Command.run("zero", "odd", "--json", in: folder).output
    #expect(json.contains("\"bytesWritten\" : 1001,"))
  }

  @Test func `info tells size and blocks`() throws {
    let outcome = try Command.run("info", "a", in: folder)
    #expect(outcome.status == 0)
    #expect(outcome.output.contains("size               50.0 KiB (51200 bytes, 100 sectors)"))
    let json = try Command.run("info", "a", "--json", in: folder)
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any])
    #expect(object["sectors"] as? Int == 100)
    #expect(object["kind"] as? String == "regular file")
    #expect(try folder.read("a") == data)
  }

  @Test func `info changes nothing, not even times`() throws {
    let path = folder.file("a")
    let old = Date(timeIntervalSince1970: 1_000_000_000)
    try FileManager.default.setAttributes([.modificationDate: old], ofItemAtPath: path)
    _ = try Command.run("info", "a", in: folder)
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    #expect(attributes[.modificationDate] as? Date == old)
  }
}
