import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// Whatever a client says instead of requests: what it had asked for is done, nothing else is, and
/// no answer comes that wasn't asked for.
@Suite struct RequestFuzzTests {
  private static let sectors: Sector = 256

  private static func conversation(_ random: inout SeededRandom) -> [UInt8] {
    var buffer = ByteBuffer()
    for cookie in 0..<random.below(25) {
      let command = random.one(of: [
        CommandType.read, .read, .write, .write, .flush, .trim, .cache, .writeZeroes,
        .blockStatus,
      ])
      let length = command == .flush ? 0 : random.one(of: [1, 512, 1000, 4096, 20_000])
      let offset = command == .flush ? 0 : random.next(upperBound: sectors.bytes)
      let flags: CommandFlags = random.chance(1, in: 5) ? .fua : []
      RequestHeader(
        command, flags: flags, cookie: UInt64(cookie), offset: offset, length: UInt32(length)
      ).write(to: &buffer)
      if command == .write {
        buffer.writeRepeatingByte(UInt8(truncatingIfNeeded: random.next()), count: length)
      }
    }
    return buffer.array
  }

  /// The requests that are in there; whether the rest is the start of one, rather than none.
  private static func requests(
    in bytes: [UInt8]
  ) -> (whole: [(head: RequestHeader, data: ByteBuffer)], isClean: Bool) {
    var buffer = ByteBuffer(bytes: bytes)
    var whole: [(RequestHeader, ByteBuffer)] = []
    while buffer.readableBytes >= RequestHeader.size {
      var rest = buffer
      guard let head = RequestHeader(&rest) else { return (whole, false) }
      if head.command == .disconnect { return (whole, true) }
      guard head.command == .write else {
        whole.append((head, ByteBuffer()))
        buffer = rest
        continue
      }
      guard head.length <= ServerLimits().request else { return (whole, false) }
      guard let data = rest.readSlice(length: Int(head.length)) else { return (whole, false) }
      whole.append((head, data))
      buffer = rest
    }
    return (whole, buffer.readableBytes == 0)
  }

  /// What a server answered to one request, in the end.
  private struct Reply {
    var error: WireError
    var data: [UInt8] = []
  }

  /// Reads all answers, each of them to something that was asked and not answered yet.
  private static func replies(
    _ heard: ByteBuffer, to requests: [(head: RequestHeader, data: ByteBuffer)]
  ) throws(CheckFailure) -> [Int: Reply] {
    var heard = heard
    var open: [UInt64: [Int]] = [:]
    for (index, request) in requests.enumerated() {
      open[request.head.cookie, default: []].append(index)
    }
    var replies: [Int: Reply] = [:]
    while heard.readableBytes > 0 {
      guard let head = ReplyHeader(&heard) else { throw CheckFailure("no answer") }
      let cookie =
        switch head {
        case .simple(_, let cookie), .chunk(_, _, let cookie, _): cookie
        }
      // Of requests with the same cookie the first that hasn't been answered is meant.
      guard let index = open[cookie]?.first else {
        throw CheckFailure("an answer with the cookie \(cookie), which nobody waits for")
      }
      open[cookie]?.removeFirst()
      let asked = requests[index].head
      switch head {
      case .simple(let error, _):
        try ensure(
          error != .none || ![.read, .blockStatus].contains(asked.command), "a simple reply")
        replies[index] = Reply(error: error)
      case .chunk(let type, let flags, _, let length):
        guard flags == .done, var body = heard.readSlice(length: Int(length)) else {
          throw CheckFailure("a piece that isn't whole")
        }
        switch type {
        case .offsetData:
          try ensure(
            asked.command == .read && body.readInteger() == asked.offset
              && body.readableBytes == Int(asked.length), "other data than were asked for")
          replies[index] = Reply(error: .none, data: body.array)
        case .blockStatus:
          try ensure(asked.command == .blockStatus, "extents that nobody asked for")
          replies[index] = Reply(error: .none)
        case .error:
          replies[index] = Reply(error: WireError(rawValue: body.readInteger() ?? 0))
          try ensure(replies[index]?.error != WireError.none, "an error that is none")
        default: throw CheckFailure("a piece of type \(type)")
        }
      }
    }
    return replies
  }

  /// Does with `disk` what the requests did that went well, and compares what they read.
  private static func replay(
    _ requests: [(head: RequestHeader, data: ByteBuffer)], _ replies: [Int: Reply],
    _ disk: inout [UInt8]
  ) throws(CheckFailure) {
    for (index, request) in requests.enumerated() {
      guard let reply = replies[index] else { throw CheckFailure("\(request.head): no answer") }
      guard reply.error == WireError.none, request.head.command != .flush else { continue }
      let range = Int(request.head.offset)..<Int(request.head.offset) + Int(request.head.length)
      try ensure(range.upperBound <= disk.count, "\(request.head) went well")
      switch request.head.command {
      case .read: try ensure(reply.data.elementsEqual(disk[range]), "\(request.head): other data")
      case .write: disk.replaceSubrange(range, with: request.data.readableBytesView)
      case .writeZeroes: disk.replaceSubrange(range, with: repeatElement(0, count: range.count))
      case .trim:
        // Whole sectors only, and this device makes them zeros.
        let whole =
          (range.lowerBound + 511) / 512
          * 512..<max(
            (range.lowerBound + 511) / 512 * 512, range.upperBound / 512 * 512)
        disk.replaceSubrange(whole, with: repeatElement(0, count: whole.count))
      default: break
      }
    }
  }

  /// What none of the requests was about is as before.
  private static func checkUntouched(
    _ requests: [(head: RequestHeader, data: ByteBuffer)], _ before: [UInt8], _ after: [UInt8]
  ) throws(CheckFailure) {
    var before = before
    for (head, _) in requests where [.write, .writeZeroes, .trim].contains(head.command) {
      guard head.offset < UInt64(before.count) else { continue }
      let end = min(before.count, Int(head.offset) + Int(head.length))
      before.replaceSubrange(Int(head.offset)..<end, with: after[Int(head.offset)..<end])
    }
    try ensure(before == after, "bytes have changed that nobody wrote")
  }

  @Test func `mutated requests, in any pieces`() async throws {
    let device = numberedDisk(Self.sectors)
    var disk = device.contents(0..<Self.sectors)
    try await TestServer.serving(["disk": device]) { test in
      for seed in seeds(30) {
        do {
          var random = SeededRandom(seed: seed)
          for _ in 0..<4 { try await Self.converse(test, device, &disk, &random) }
        } catch {
          throw SeedFailure(seed: seed, underlying: error)
        }
      }
    }
  }

  private static func converse(
    _ test: TestServer, _ device: MemoryDevice, _ disk: inout [UInt8],
    _ random: inout SeededRandom
  ) async throws {
    var bytes = conversation(&random)
    for _ in 0..<random.one(of: [0, 0, 1, 2, 5]) { random.mutate(&bytes) }
    let (requests, isClean) = requests(in: bytes)
    if isClean {
      var goodbye = ByteBuffer()
      RequestHeader(.disconnect, cookie: 0).write(to: &goodbye)
      bytes += goodbye.array
    }
    let pieces = random.cut(bytes)
    let heard = try await RawClient.connected(to: test.socket) { client in
      try await client.go()
      for piece in pieces { await client.sayUnheard { $0.writeImmutableBuffer(piece) } }
      // One that has begun a request and stalls would be waited for; it hangs up instead.
      if !isClean {
        try? await client.say { $0.writeRepeatingByte(0xff, count: 28 + (1 << 15)) }
        await client.hangUp()
      }
      return await client.hearAll()
    }
    if isClean {
      let replies = try replies(heard, to: requests)
      try replay(requests, replies, &disk)
      try ensure(device.contents(0..<sectors) == disk, "the disk isn't what was written")
    } else {
      try await test.waitForClients(0)
      try checkUntouched(requests + begun(in: bytes), disk, device.contents(0..<sectors))
      disk = device.contents(0..<sectors)
    }
  }

  /// A write at the end whose data are cut off: what is said behind it makes it whole, maybe.
  private static func begun(in bytes: [UInt8]) -> [(head: RequestHeader, data: ByteBuffer)] {
    var rest = bytes[...]
    for request in requests(in: bytes).whole {
      rest = rest.dropFirst(RequestHeader.size + request.data.readableBytes)
    }
    var buffer = ByteBuffer(bytes: rest)
    return RequestHeader(&buffer).map { [($0, ByteBuffer())] } ?? []
  }

  /// The check finds what it is for.
  @Test func `answers that weren't asked for are found`() throws {
    let asked = [(head: RequestHeader(.read, cookie: 5, length: 512), data: ByteBuffer())]
    func data(_ cookie: UInt64, offset: UInt64 = 0, count: Int = 512) -> ByteBuffer {
      Answer.data(
        RequestHeader(.read, cookie: cookie, offset: offset, length: 512), count: count)
    }
    _ = try Self.replies(data(5), to: asked)
    var twice = data(5)
    twice.writeImmutableBuffer(data(5))
    for wrong in [
      data(6), data(5, offset: 512), data(5, count: 511), twice,
      Answer.simple(asked[0].head), ByteBuffer(repeating: 1, count: 16),
    ] {
      #expect(throws: CheckFailure.self) { _ = try Self.replies(wrong, to: asked) }
    }
    #expect(throws: CheckFailure.self) {
      var disk = [UInt8](repeating: 1, count: 512)
      try Self.replay(asked, [0: Reply(error: .none, data: .init(repeating: 2, count: 512))], &disk)
    }
  }
}
