import Logging
import NIOCore
import NIOPosix

/// A small HTTP server with one page, `/metrics`: what a scraper needs, and nothing else.
///
/// A request is at most 8 KiB and has 10 s; there are at most 16 connections, each for one request.
struct MetricsServer {
  static let maximumRequest = 8 << 10
  static let maximumConnections = 16
  static let patience = TimeAmount.seconds(10)

  typealias Connection = NIOAsyncChannel<ByteBuffer, ByteBuffer>

  private let listener: NIOAsyncChannel<Connection, Never>
  private let logger: Logger

  /// Where it listens.
  var address: SocketAddress? { listener.channel.localAddress }

  init(
    _ endpoint: Settings.Endpoint, group: any EventLoopGroup, logger: Logger
  ) async throws(ControlFailure) {
    self.logger = logger
    do {
      listener = try await ServerBootstrap(group: group)
        .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
        .bind(host: endpoint.host, port: endpoint.port) { channel in
          channel.eventLoop.makeCompletedFuture {
            try Connection(wrappingChannelSynchronously: channel)
          }
        }
    } catch {
      throw .refused("--metrics: can't listen at \(endpoint): \(error.plainReason)")
    }
  }

  /// Serves until the task is cancelled.
  func run(_ page: @escaping @Sendable () async -> String) async throws {
    let connections = ConnectionCount()
    try await withThrowingDiscardingTaskGroup { group in
      try await listener.executeThenClose { inbound in
        for try await connection in inbound {
          guard connections.enter(below: Self.maximumConnections) else {
            connection.channel.close(promise: nil)
            continue
          }
          group.addTask {
            defer { connections.leave() }
            await serve(connection, page)
          }
        }
      }
    }
  }

  private func serve(_ connection: Connection, _ page: @Sendable () async -> String) async {
    let channel = connection.channel
    let timeout = channel.eventLoop.scheduleTask(in: Self.patience) { channel.close(promise: nil) }
    defer { timeout.cancel() }
    do {
      try await connection.executeThenClose { inbound, outbound in
        var request = ByteBuffer()
        for try await bytes in inbound {
          request.writeImmutableBuffer(bytes)
          let text = String(buffer: request)
          if text.contains("\r\n\r\n") || text.contains("\n\n") {
            try await outbound.write(ByteBuffer(string: await Self.response(text, page)))
            return
          }
          guard request.readableBytes <= Self.maximumRequest else { return }
        }
      }
    } catch {
      logger.debug("a connection to the metrics ended", metadata: ["reason": "\(error)"])
    }
  }

  /// The whole answer to the head of a request.
  static func response(_ head: String, _ page: @Sendable () async -> String) async -> String {
    let words = head.prefix { !$0.isNewline }.split(separator: " ")
    guard words.count == 3, words[2].hasPrefix("HTTP/1.") else {
      return response("400 Bad Request", "this is no HTTP/1 request\n")
    }
    guard words[0] == "GET" || words[0] == "HEAD" else {
      return response("405 Method Not Allowed", "GET is\n")
    }
    guard words[1] == "/metrics" || words[1].hasPrefix("/metrics?") else {
      return response("404 Not Found", "the metrics are at /metrics\n")
    }
    return response("200 OK", await page(), isHead: words[0] == "HEAD")
  }

  private static func response(_ status: String, _ body: String, isHead: Bool = false) -> String {
    "HTTP/1.1 \(status)\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
      + "Content-Length: \(body.utf8.count)\r\nConnection: close\r\n\r\n" + (isHead ? "" : body)
  }
}
