import NIOCore
import NIOPosix
import SystemPackage

/// A command's side of the control socket.
public enum ControlClient {
  /// Sends a request and waits for its end.
  ///
  /// - Parameters:
  ///   - path: the socket.
  ///   - progress: called for each line about how far it is.
  /// - Throws: what the daemon says, or that there is none.
  public static func send(
    _ request: ControlRequest, to path: String,
    progress: @escaping @Sendable (_ done: UInt64, _ total: UInt64, _ text: String) -> Void = {
      _, _, _ in
    }
  ) async throws(ControlFailure) -> ControlAnswer {
    let reply: ControlReply
    do {
      let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .connect(unixDomainSocketPath: path) { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(ByteToMessageHandler(LineDecoder()))
            return try NIOAsyncChannel<ByteBuffer, ByteBuffer>(
              wrappingChannelSynchronously: channel)
          }
        }
      reply = try await channel.executeThenClose { inbound, outbound in
        try await outbound.write(ControlWire.encode(request))
        for try await line in inbound {
          let reply = try ControlWire.decodeReply(line)
          guard case .progress(let done, let total, let text) = reply else { return reply }
          progress(done, total, text)
        }
        throw ControlFailure.failed(
          "the daemon ended before it answered; it takes up what it had begun when it is started "
            + "again")
      }
    } catch let failure as ControlFailure {
      throw failure
    } catch {
      let reason = (error as? IOError).map { "\(Errno(rawValue: $0.errnoCode))" } ?? "\(error)"
      throw .refused(
        "no daemon answers at '\(path)': \(reason); start one with kcopyd serve, or name its "
          + "socket with --socket")
    }
    switch reply {
    case .done(let answer): return answer
    case .failed(let failure): throw failure
    case .progress: throw .failed("the daemon ended before it answered")
    }
  }
}
