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
    let channel: NIOAsyncChannel<ByteBuffer, ByteBuffer>
    do {
      channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .connect(unixDomainSocketPath: path) { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(
              ByteToMessageHandler(LineDecoder(maximum: ControlLine.maximumReply)))
            return try NIOAsyncChannel<ByteBuffer, ByteBuffer>(
              wrappingChannelSynchronously: channel)
          }
        }
    } catch {
      let reason = (error as? IOError).map { "\(Errno(rawValue: $0.errnoCode))" } ?? "\(error)"
      throw .refused(
        "no daemon answers at '\(path)': \(reason); start one with kcopyd serve, or name its "
          + "socket with --socket")
    }
    // From here on it may have begun: whatever goes wrong is no refusal.
    do {
      return try await channel.executeThenClose { inbound, outbound in
        try await outbound.write(ControlWire.encode(request))
        for try await line in inbound {
          switch try ControlWire.decodeReply(line) {
          case .progress(let done, let total, let text): progress(done, total, text)
          case .done(let answer): return answer
          case .failed(let failure): throw failure
          }
        }
        throw ControlFailure.failed(Self.unanswered)
      }
    } catch let failure as ControlFailure {
      throw failure
    } catch {
      throw .failed(Self.unanswered)
    }
  }

  private static let unanswered =
    "the daemon ended before it answered; what it had begun it takes up when it is started again, "
    + "and kcopyd dm table shows what there is"
}
