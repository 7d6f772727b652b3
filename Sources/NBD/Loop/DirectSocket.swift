import BlockIO
import NIOCore
import NIOPosix

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// The socket of a connection without TLS, of a client or a server, for moving data between it and
/// the memory of requests with no copy in between, and no more calls than that takes.
///
/// NIO waits for the socket, and finds out that it is closed or broken; nothing here waits, and an
/// error is taken for "nothing now". NIO keeps nothing that it has read, so that what is received
/// here is what comes next; whoever sends here sees to it that nothing of NIO's is still to be sent.
///
/// Unsafe, because the system's calls want addresses.
struct DirectSocket {
  private let channel: any Channel
  /// NIO's, and to be used while the channel is active only: NIO closes it and has the channel
  /// inactive in one go, on the event loop, where all of this runs. Asking NIO for it each time
  /// would cost as much as the call that it is for.
  private let descriptor: NIOBSDSocket.Handle

  /// The most pieces that are sent by one call; the system takes 1024.
  private static let mostPieces = 128
  private static let cacheLine = 64

  /// nil: the channel has no socket.
  init?(_ channel: any Channel) {
    let operations = channel.pipeline.syncOperations
    let handle = try? operations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) { $0 }
    guard let descriptor = handle ?? nil else { return nil }
    self.channel = channel
    self.descriptor = descriptor
  }

  /// Has the system take more at once than by itself on a Unix socket; TCP finds out what suits.
  func enlarge() {
    var size: CInt = 2 << 20
    call { setsockopt($0, SOL_SOCKET, SO_SNDBUF, &size, socklen_t(MemoryLayout<CInt>.size)) }
  }

  /// Receives what is there, into those bytes of the memory.
  ///
  /// - Returns: how many; 0 when there are none now, or never again.
  func receive(into memory: IOBuffer, _ range: Range<Int>) -> Int {
    memory.withMutableBytes { span in
      span.withUnsafeMutableBytes { bytes in
        // Within the span, whose memory is the request's for the length of this call.
        let target = UnsafeMutableRawBufferPointer(rebasing: bytes[range])
        guard let base = target.baseAddress else { return 0 }
        // In two parts: the system copies at full speed to where lines of the cache begin.
        let begun = (Self.cacheLine - Int(bitPattern: base) % Self.cacheLine) % Self.cacheLine
        let first = min(begun, target.count)
        var parts = (
          iovec(iov_base: base, iov_len: first),
          iovec(iov_base: base + first, iov_len: target.count - first)
        )
        return withUnsafeMutableBytes(of: &parts) { parts in
          let parts = parts.bindMemory(to: iovec.self)
          return call { readv($0, parts.baseAddress, CInt(parts.count)) }
        }
      }
    }
  }

  /// Receives what is there behind what the buffer holds.
  ///
  /// - Returns: how many bytes, at most so many; 0 when there are none now, or never again.
  func receive(into bytes: inout ByteBuffer, atMost limit: Int) -> Int {
    bytes.writeWithUnsafeMutableBytes(minimumWritableBytes: limit) { memory in
      // The memory is this buffer's alone during the call, and as long as was asked for.
      call { recv($0, memory.baseAddress, limit, CInt(MSG_DONTWAIT)) }
    }
  }

  /// Sends what two buffers hold, one after the other.
  ///
  /// - Returns: how many bytes; 0 when none are taken now, or never again.
  func send(_ first: ByteBuffer, _ second: ByteBuffer) -> Int {
    first.withUnsafeReadableBytes { first in
      second.withUnsafeReadableBytes { second in
        // Only read, and within the call.
        var parts = (piece(first), piece(second))
        return withUnsafeMutableBytes(of: &parts) { parts in
          var message = msghdr()
          message.msg_iov = parts.bindMemory(to: iovec.self).baseAddress
          message.msg_iovlen = second.isEmpty ? 1 : 2
          return call { sendmsg($0, &message, Self.sendFlags) }
        }
      }
    }
  }

  private func piece(_ bytes: UnsafeRawBufferPointer) -> iovec {
    iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
  }

  /// Sends what the queue begins with.
  ///
  /// - Returns: how many bytes; 0 when none are taken now, or never again.
  func send(_ queue: SendQueue) -> Int {
    queue.heads.withUnsafeReadableBytes { heads in
      withUnsafeTemporaryAllocation(of: iovec.self, capacity: Self.mostPieces) { pieces in
        var count = 0
        queue.forEachPart { part in
          guard count < pieces.count else { return }
          let bytes: UnsafeRawBufferPointer =
            switch part {
            case .head(let range): .init(rebasing: heads[range])
            case .data(let memory, let range):
              // The address outlives the closure that it comes from: the memory of a request stays
              // where it is until that is over, and it isn't while it is in the queue.
              memory.withBytes { $0.withUnsafeBytes { .init(rebasing: $0[range]) } }
            }
          pieces.initializeElement(
            at: count,
            to: iovec(
              iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count))
          count += 1
        }
        var message = msghdr()
        message.msg_iov = pieces.baseAddress
        message.msg_iovlen = .init(count)
        return call { sendmsg($0, &message, Self.sendFlags) }
      }
    }
  }

  private static let sendFlags = CInt(MSG_DONTWAIT) | CInt(MSG_NOSIGNAL)

  /// One call of the system.
  ///
  /// - Returns: how many bytes were moved.
  @discardableResult
  private func call(_ body: (CInt) -> some BinaryInteger) -> Int {
    guard channel.isActive else { return 0 }
    return max(0, Int(body(descriptor)))
  }
}
