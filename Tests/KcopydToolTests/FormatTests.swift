import BlockIO
import Testing

@testable import Kcopyd
@testable import KcopydTool

@Suite struct FormatTests {
  @Test(arguments: [
    ("1", 512), ("2048s", 2048 * 512), ("1b", 1), ("1k", 1024), ("1KiB", 1024), ("1kB", 1000),
    ("3MiB", 3 << 20), ("3MB", 3_000_000), ("2G", 2 << 30), ("1TiB", 1 << 40),
    ("7TB", 7_000_000_000_000),
  ])
  func `sizes are understood`(_ text: String, _ bytes: Int) throws {
    #expect(try Size.bytes(text, plain: 512) == UInt64(bytes))
  }

  @Test(arguments: ["", "MiB", "-1", "1.5MiB", "0x10", " 1", "1 MiB", "9999999EiB", "1ss"])
  func `malformed sizes are refused`(_ text: String) {
    #expect(throws: Size.Malformed.self) { try Size.bytes(text, plain: 512) }
  }

  @Test func `numbers for people`() {
    #expect(Format.bytes(0) == "0 B")
    #expect(Format.bytes(1536) == "1.5 KiB")
    #expect(Format.rate(.infinity) == "–")
    #expect(Format.duration(.milliseconds(1234)) == "1.23 s")
    #expect(Format.duration(.seconds(3725)) == "1:02:05")
    #expect(Format.clock(.nan) == "–")
    var ranges = RangeSet<Sector>()
    for sector in [1, 2, 5, 7, 9, 11] as [Sector] { ranges.insert(sector..<sector + 1) }
    #expect(Format.ranges(ranges) == "1–2, 5, 7, 9 and 1 more")
  }

  @Test func `progress never stands at 100 percent`() {
    var view = ProgressView(title: "copying", byteCount: 1000, names: ["a"], makesDurable: true)
    var snapshot = CopyProgress.Snapshot(destinations: 1)
    snapshot.destinations[0].written = 1000
    view.update(snapshot, after: .seconds(1), isFlushing: false)
    #expect(view.lines(columns: 80)[0].contains(" 99 %"))
    view.update(snapshot, after: .seconds(2), isFlushing: true)
    #expect(view.lines(columns: 120)[0].contains("making it durable: 0 B so far"))
  }

  @Test func `a failed destination gets its own line and isn't waited for`() {
    var view = ProgressView(
      title: "copying", byteCount: 1000, names: ["a", "b"], makesDurable: true)
    var snapshot = CopyProgress.Snapshot(destinations: 2)
    snapshot.destinations[0].written = 500
    snapshot.destinations[1].written = 10
    snapshot.destinations[1].hasFailed = true
    view.update(snapshot, after: .seconds(1), isFlushing: false)
    let lines = view.lines(columns: 80)
    #expect(lines.count == 3)
    #expect(lines[0].contains("50 %"))
    #expect(lines[2] == "  b: 10 B written, failed")
  }

  @Test func `lines fit the terminal`() {
    var view = ProgressView(
      title: "copying", byteCount: 1 << 40, names: ["a"], makesDurable: true)
    view.update(.init(destinations: 1), after: .seconds(1), isFlushing: false)
    for columns in [1, 2, 20, 40, 80] {
      #expect(view.lines(columns: columns).allSatisfy { $0.count < columns })
    }
  }

  @Test func `a table in columns`() {
    #expect(
      Format.table([["a", "bb", "c"], ["aaa", "b", "long"]]) == "a    bb  c\naaa  b   long")
  }
}
