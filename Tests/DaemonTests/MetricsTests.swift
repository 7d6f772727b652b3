import Metrics
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
}
