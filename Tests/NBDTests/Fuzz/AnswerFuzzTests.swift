import BlockIO
import BlockIOTesting
import NIOCore
import Testing

@testable import NBD

/// What reads answers; that of the client, and one that can't be relied on.
protocol AnswerReading {
  mutating func expect(_ number: UInt64, _ request: ClientRequest)
  mutating func take(
    _ bytes: ByteBuffer, finish: (UInt64, ClientAnswer) -> Void
  ) throws(LineFailure)
  var pendingBytes: Int { get }
}

extension AnswerReader: AnswerReading {}

/// Does what a connection does: the data that are awaited come from the socket to their place.
struct DirectReader: AnswerReading {
  var reader: AnswerReader
  /// How much is received at once at most.
  var most = Int.max
  /// How many bytes are said to have come for so many that have.
  var counted: (Int) -> Int = { $0 }
  var pendingBytes: Int { reader.pendingBytes }

  mutating func expect(_ number: UInt64, _ request: ClientRequest) {
    reader.expect(number, request)
  }

  mutating func take(
    _ bytes: ByteBuffer, finish: (UInt64, ClientAnswer) -> Void
  ) throws(LineFailure) {
    var rest = bytes
    while let read = rest.readSlice(length: min(ReceiveSize.little, rest.readableBytes)),
      read.readableBytes > 0
    {
      try reader.take(read, finish: finish)
      while let (memory, range) = reader.awaited, rest.readableBytes > 0 {
        let count = min(range.count, rest.readableBytes, most)
        memory.store(rest.readableBytesSpan.extracting(first: count), at: range.lowerBound)
        rest.moveReaderIndex(forwardBy: count)
        try reader.placed(min(range.count, counted(count)), finish: finish)
      }
    }
  }
}

/// Whatever a server answers: no request ends twice or without having been made, and a read only
/// when all its data have come.
@Suite struct AnswerFuzzTests {
  /// What memory holds that nobody has read into; true data never do.
  private static let unread: UInt8 = 0xAA

  private struct Asked {
    let request: ClientRequest
    var memory: Memory?
  }

  /// What a read goes into, with as much behind it that must stay as it is.
  private final class Memory {
    let pages: Pages

    init() throws {
      pages = try PagePool.lend(holding: 16)
      pages.buffer.load(from: [UInt8](repeating: unread, count: 16 * 512))
    }
  }

  private static func ask(_ random: inout SeededRandom) throws -> Asked {
    let start = random.next(upperBound: 1000 as UInt64)
    let sectors = Sector(start)..<Sector(start + 1 + random.next(upperBound: 8 as UInt64))
    let bytes = sectors.lowerBound.bytes..<sectors.upperBound.bytes
    switch random.below(6) {
    case 0: return Asked(request: .init(operation: .flush, bytes: 0..<0))
    case 1: return Asked(request: .init(operation: .trim, bytes: bytes))
    case 2:
      return Asked(
        request: .init(operation: .blockStatus(sectors, limit: 8), bytes: bytes))
    default:
      let memory = try Memory()
      let buffer = memory.pages.buffer.slice(0, sectors.length)
      return Asked(request: .init(operation: .read(buffer), bytes: bytes), memory: memory)
    }
  }

  /// Pieces of a true answer; those of several requests may be mixed.
  private static func pieces(
    _ number: UInt64, _ asked: Asked, isStructured: Bool, _ random: inout SeededRandom
  ) -> [[UInt8]] {
    let head = RequestHeader(
      asked.request.command, cookie: number, offset: asked.request.bytes.lowerBound,
      length: UInt32(asked.request.bytes.count))
    if random.chance(1, in: 10) {
      guard isStructured else { return [Answer.simple(head, .io).array] }
      return [
        Answer.chunk(head, .error) { $0.writeMultipleIntegers(UInt32(5), UInt16(0)) }.array
      ]
    }
    switch asked.request.operation {
    case .read where isStructured:
      var pieces: [[UInt8]] = []
      let half = random.below(asked.request.payload + 1)
      for (start, end) in [(0, half), (half, asked.request.payload)] where start < end {
        pieces.append(
          random.chance(1, in: 4)
            ? Answer.chunk(head, .offsetHole, last: false) {
              $0.writeMultipleIntegers(head.offset + UInt64(start), UInt32(end - start))
            }.array
            : Answer.data(head, from: start, count: end - start, last: false).array)
      }
      if random.chance(1, in: 2) { pieces.reverse() }
      return pieces + [Answer.chunk(head, .none).array]
    case .read:
      return [Answer.simple(head).array + [UInt8](repeating: 7, count: asked.request.payload)]
    case .blockStatus where isStructured:
      return [
        Answer.chunk(head, .blockStatus) {
          $0.writeMultipleIntegers(UInt32(1), head.length / 2, UInt32(3))
          $0.writeMultipleIntegers(head.length - head.length / 2, UInt32(0))
        }.array
      ]
    default: return [Answer.simple(head).array]
    }
  }

  private static func mixed(
    _ answers: [[[UInt8]]], _ random: inout SeededRandom
  ) -> [UInt8] {
    var answers = answers
    var bytes: [UInt8] = []
    while !answers.isEmpty {
      let index = random.below(answers.count)
      bytes += answers[index].removeFirst()
      if answers[index].isEmpty { answers.remove(at: index) }
    }
    return bytes
  }

  /// Leaves out a piece, says one twice, or calls it the last one.
  private static func change(_ answers: inout [[[UInt8]]], _ random: inout SeededRandom) {
    let answer = random.below(answers.count)
    let piece = random.below(answers[answer].count)
    switch random.below(3) {
    case 0 where answers[answer].count > 1: answers[answer].remove(at: piece)
    case 1: answers[answer].insert(answers[answer][piece], at: piece)
    // The flags are the last two bytes of four and two.
    default: answers[answer][piece][5] |= 1
    }
  }

  /// How many bytes of a read nobody has read, and whether what is behind it is as it was.
  private static func look(_ asked: Asked, first count: Int) throws(CheckFailure) -> Int {
    guard let memory = asked.memory else { return 0 }
    var content = [UInt8](repeating: 0, count: 16 * 512)
    memory.pages.buffer.slice(0, 16).store(into: &content)
    try ensure(
      content[asked.request.payload...].allSatisfy { $0 == unread },
      "memory behind the read was written to")
    return content[..<count].count { $0 == unread }
  }

  /// Has `reader` read a conversation with so many mutations, and checks what it makes of it.
  private static func check(
    _ makeReader: (ExportInfo) -> some AnswerReading, mutations: Int,
    _ random: inout SeededRandom
  ) throws {
    let isStructured = random.chance(2, in: 3)
    var info = ExportInfo(byteCount: 1 << 20, flags: [.hasFlags], isStructured: isStructured)
    info.allocation = isStructured ? 1 : nil
    var reader = makeReader(info)
    var asked: [UInt64: Asked] = [:]
    for number in 1...UInt64(6) {
      let one = try ask(&random)
      if case .blockStatus = one.request.operation, !isStructured { continue }
      asked[number] = one
      reader.expect(number, one.request)
    }
    var answers = asked.sorted { $0.key < $1.key }
      .map { pieces($0.key, $0.value, isStructured: isStructured, &random) }
    if mutations > 0, isStructured, random.chance(1, in: 2) { change(&answers, &random) }
    var bytes = mixed(answers, &random)
    for _ in 0..<mutations { random.mutate(&bytes) }
    var ended: [UInt64: ClientAnswer] = [:]
    var failure: CheckFailure?
    do throws(LineFailure) {
      for piece in random.cut(bytes) {
        try reader.take(piece) { number, answer in
          if asked[number] == nil || ended[number] != nil {
            failure = CheckFailure("request \(number) ends, and nobody waits for it")
          }
          ended[number] = answer
        }
        if reader.pendingBytes > (1 << 20) + 24 { failure = CheckFailure("too much is kept") }
      }
    } catch {
      if mutations == 0 { throw CheckFailure("the truth is called a lie: \(error)") }
    }
    if let failure { throw failure }
    if mutations == 0 { try ensure(ended.count == asked.count, "a request doesn't end") }
    for (number, one) in asked {
      var good = 0
      switch ended[number] {
      case .done: good = one.request.payload
      case .failed(let failure): good = failure.readBytes
      case .extents, nil: break
      }
      // A mutation can make such bytes of data, a few at a time.
      let missing = try look(one, first: good)
      try ensure(missing <= mutations * 40, "\(missing) bytes of read \(number) didn't come")
    }
  }

  @Test func `mutated answers, in any order and pieces`() throws {
    try forEachSeed(100) { seed in
      var random = SeededRandom(seed: seed)
      for _ in 0..<10 {
        try Self.check({ AnswerReader($0) }, mutations: random.one(of: [0, 1, 1, 2, 4]), &random)
      }
    }
  }

  private static func checkDirect(counted: @escaping (Int) -> Int) throws(SeedFailure) {
    try forEachSeed(100) { seed in
      var random = SeededRandom(seed: seed)
      for _ in 0..<10 {
        let (bulk, most) = (random.one(of: [1, 300, 2000]), random.one(of: [1, 700, Int.max]))
        try Self.check(
          {
            DirectReader(reader: AnswerReader($0, bulk: bulk), most: most, counted: counted)
          },
          mutations: random.one(of: [0, 1, 1, 2, 4]), &random)
      }
    }
  }

  @Test func `mutated answers, with data that are received in their place`() throws {
    try Self.checkDirect { $0 }
  }

  /// The check finds what it is for: bytes that didn't come and are counted.
  @Test func `a socket that gives less than it says is found`() {
    #expect(throws: SeedFailure.self) { try Self.checkDirect { $0 + 1 } }
  }

  @Test func `an answer in several pieces, cut at every byte`() throws {
    let memory = try Memory()
    let request = ClientRequest(
      operation: .read(memory.pages.buffer.slice(0, 1)), bytes: 4096..<4608)
    let head = RequestHeader(.read, cookie: 9, offset: 4096, length: 512)
    // The last one first, a hole in the middle.
    let pieces = [
      Answer.data(head, from: 320, count: 192, last: false, byte: 3),
      Answer.data(head, from: 0, count: 200, last: false, byte: 1),
      Answer.chunk(head, .offsetHole, last: false) {
        $0.writeMultipleIntegers(head.offset + 200, UInt32(120))
      },
      Answer.chunk(head, .none),
    ]
    let answer = pieces.reduce(into: ByteBuffer()) { $0.writeImmutableBuffer($1) }
    var content = [UInt8](repeating: 1, count: 200)
    content += [UInt8](repeating: 0, count: 120)
    content += [UInt8](repeating: 3, count: 192)
    content += [UInt8](repeating: Self.unread, count: 15 * 512)
    for cut in 0...answer.readableBytes {
      memory.pages.buffer.load(from: [UInt8](repeating: Self.unread, count: 16 * 512))
      let export = ExportInfo(byteCount: 1 << 20, flags: [.hasFlags], isStructured: true)
      var reader = DirectReader(reader: AnswerReader(export, bulk: 1), most: 100)
      reader.expect(9, request)
      let first = try #require(answer.getSlice(at: 0, length: cut))
      let rest = try #require(answer.getSlice(at: cut, length: answer.readableBytes - cut))
      var ends: [ClientAnswer] = []
      try reader.take(first) { ends.append($1) }
      #expect(ends.isEmpty == (cut < answer.readableBytes), "cut at \(cut)")
      try reader.take(rest) { ends.append($1) }
      guard ends.count == 1, case .done = ends[0] else {
        Issue.record("cut at \(cut): \(ends)")
        continue
      }
      var found = [UInt8](repeating: 0, count: 16 * 512)
      memory.pages.buffer.store(into: &found)
      #expect(found == content, "cut at \(cut)")
    }
  }

  /// Where data are missing, it takes all for done.
  private struct Gullible: AnswerReading {
    var reader: AnswerReader
    var open: Set<UInt64> = []
    let pendingBytes = 0

    mutating func expect(_ number: UInt64, _ request: ClientRequest) {
      open.insert(number)
      reader.expect(number, request)
    }

    mutating func take(
      _ bytes: ByteBuffer, finish: (UInt64, ClientAnswer) -> Void
    ) throws(LineFailure) {
      var open = open
      defer { self.open = open }
      do throws(LineFailure) {
        try reader.take(bytes) { number, answer in
          open.remove(number)
          finish(number, answer)
        }
      } catch {
        guard error.description.contains("data are missing") else { throw error }
        for number in open { finish(number, .done) }
        open = []
      }
    }
  }

  /// The check finds what it is for: a short read that is taken for a whole one.
  @Test func `a reader that takes less than was asked for is found`() {
    #expect(throws: SeedFailure.self) {
      try forEachSeed(100) { seed in
        var random = SeededRandom(seed: seed)
        for _ in 0..<10 {
          try Self.check({ Gullible(reader: AnswerReader($0)) }, mutations: 2, &random)
        }
      }
    }
  }
}
