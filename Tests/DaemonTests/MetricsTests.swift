import Foundation
import Metrics
import NBD
import Testing

@testable import Daemon

/// The page for scrapers.
struct MetricsTests {
  @Test func valuesAreRenderedInPrometheusForm() {
    let registry = PrometheusRegistry()
    Counter(label: "a.total", dimensions: [("d", "x\"y\\z\n")], factory: registry).increment(by: 3)
    Counter(label: "a.total", dimensions: [("d", "x\"y\\z\n")], factory: registry).increment(by: 4)
    Meter(label: "g", factory: registry).set(1.5)
    let timer = Timer(label: "t", factory: registry)
    timer.recordNanoseconds(1_500_000_000)
    timer.recordNanoseconds(500_000_000)
    #expect(
      registry.render() == """
        # TYPE a_total counter
        a_total{d="x\\"y\\\\z\\n"} 7
        # TYPE g gauge
        g 1.5
        # TYPE t summary
        t_sum 2
        t_count 2

        """)
  }

  @Test(arguments: [
    ("GET /metrics HTTP/1.1\r\n\r\n", "200 OK", true),
    ("HEAD /metrics HTTP/1.0\r\n\r\n", "200 OK", false),
    ("GET / HTTP/1.1\r\n\r\n", "404 Not Found", false),
    ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", false),
    ("NBDMAGIC\n\n", "400 Bad Request", false),
  ])
  func requestsAreAnswered(head: String, status: String, hasPage: Bool) async {
    let answer = await MetricsServer.response(head) { "the page" }
    #expect(answer.hasPrefix("HTTP/1.1 \(status)\r\n"))
    #expect(answer.hasSuffix("the page") == hasPage)
  }

  /// Every figure of a mirror under a snapshotted device, by device and leg, and of the snapshot.
  @Test func thePageTellsOfEachLegAndEachSnapshot() async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("disk", byteCount: 1 << 20)
    let world = try await KeeperWorld(folder.path)
    let keeper = world.keeper
    _ = try await keeper.attach(
      "disk", file: folder.file("disk"), isReadOnly: false, isExported: false)
    try await keeper.addLeg(folder.file("leg"), to: "disk", region: nil)
    _ = try await keeper.follow("disk") { _, _, _ in }
    _ = try await keeper.takeSnapshots(
      [
        SnapshotOrder(
          name: "snap", origin: "disk", cow: folder.file("cow"), size: 2 << 20, chunkSectors: 32)
      ], isExported: false)
    let fresh = Page(await MetricsCollector(keeper: keeper).page())
    try await Task(executorPreference: world.network.ioLoop) {
      try await world.write(DiskModel(), count: 10)
    }.value
    let page = Page(await MetricsCollector(keeper: keeper).page())

    let written = 10.0 * 16384
    for leg in [folder.file("disk"), folder.file("leg")] {
      let labels = "device=\"disk-real\",start=\"0\",leg=\"\(leg)\""
      #expect(page["kcopyd_leg_bytes_total", labels, "operation=\"write\""] == written)
      #expect(page["kcopyd_leg_operations_total", labels, "operation=\"write\""] == 10)
      #expect(page["kcopyd_leg_errors_total", labels, "operation=\"write\""] == 0)
      #expect(page["kcopyd_leg_seconds_total", labels, "operation=\"write\""] ?? 0 > 0)
      #expect(page["kcopyd_leg_queue", labels] == 0)
      #expect(page["kcopyd_leg_state", labels, "state=\"alive\""] == 1)
      #expect(page["kcopyd_leg_state", labels, "state=\"write_failed\""] == 0)
    }
    #expect(page["kcopyd_mirror_sync_percent", "device=\"disk-real\",start=\"0\""] == 100)
    let snapshot = "device=\"snap\",start=\"0\",cow=\"\(folder.file("cow"))\""
    let chunks = try #require(page["kcopyd_snapshot_chunks", snapshot])
    #expect(chunks >= 1 && chunks <= 10)
    #expect(page["kcopyd_snapshot_valid", snapshot] == 1)
    #expect(page["kcopyd_cow_bytes", snapshot] == 2_097_152)
    let used = try [fresh, page].map { try #require($0["kcopyd_cow_used_bytes", snapshot]) }
    #expect(used[1] - used[0] == chunks * 16384)
    try await world.end()
  }

  @Test func thePageTellsOfOperations() {
    let move = SavedOperation(
      kind: .move, device: "disk", target: "disk-real", from: Place(device: "/a", offset: "0"),
      to: Place(device: "/b", offset: "0"))
    let registry = PrometheusRegistry()
    MetricsCollector.note(move, OperationProgress(done: 1, total: 4), registry)
    MetricsCollector.note(SavedOperation(kind: .merge, device: "x", target: "x"), nil, registry)
    let page = Page(registry.render())
    let labels = "device=\"disk\",operation=\"move\",destination=\"/b\""
    #expect(page["kcopyd_operation_percent", labels] == 25)
    #expect(page["kcopyd_operation_running", labels] == 1)
    let stopped = "device=\"x\",operation=\"merge\",destination=\"x\""
    #expect(page["kcopyd_operation_running", stopped] == 0)
    #expect(page["kcopyd_operation_percent", stopped] == nil)
  }
}

/// A page for scrapers, by series.
struct Page {
  private var series: [String: Double] = [:]

  init(_ text: String) {
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      guard let space = line.lastIndex(of: " ") else { continue }
      series[String(line[..<space])] = Double(line[line.index(after: space)...])
    }
  }

  subscript(name: String, labels: String...) -> Double? {
    series["\(name){\(labels.joined(separator: ","))}"]
  }
}
