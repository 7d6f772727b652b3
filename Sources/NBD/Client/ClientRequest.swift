import BlockIO

/// A request as it goes to the server, whole: its bytes fit the server's limits.
struct ClientRequest: Sendable {
  enum Operation: Sendable {
    /// Into memory that is at least as long and lives until the request is over.
    case read(IOBuffer)
    /// From memory that lives until the request is over.
    case write(IOBuffer, durable: Bool)
    case writeZeroes(mayUnmap: Bool, durable: Bool)
    case trim
    case flush
    /// At most so many extents for these sectors.
    case blockStatus(Range<Sector>, limit: Int)
  }

  let operation: Operation
  /// Which bytes of the export; none for a flush.
  let bytes: Range<UInt64>

  var command: CommandType {
    switch operation {
    case .read: .read
    case .write: .write
    case .writeZeroes: .writeZeroes
    case .trim: .trim
    case .flush: .flush
    case .blockStatus: .blockStatus
    }
  }

  var flags: CommandFlags {
    switch operation {
    case .write(_, let durable): durable ? .fua : []
    // Not FAST_ZERO: it makes servers refuse what they would do at the speed of writing, and
    // sending the zeros instead is never faster than that.
    case .writeZeroes(let mayUnmap, let durable):
      (mayUnmap ? [] : CommandFlags.noHole).union(durable ? .fua : [])
    case .read, .trim, .flush, .blockStatus: []
    }
  }

  var kind: RequestLedger.Kind {
    switch operation {
    case .read, .blockStatus: .query
    case .write(_, let durable), .writeZeroes(_, let durable): .change(durable: durable)
    case .trim: .change(durable: false)
    case .flush: .flush
    }
  }

  /// The bytes of data that go one way or the other.
  var payload: Int {
    switch operation {
    case .read, .write: bytes.count
    case .writeZeroes, .trim, .flush, .blockStatus: 0
    }
  }
}

/// What became of a request.
enum ClientAnswer: Sendable {
  case done
  case extents([BlockExtent])
  case failed(RequestFailure)
}

/// Why a request failed.
struct RequestFailure: Hashable, Sendable {
  let error: WireError
  /// In words, where they say more than the number.
  var detail: String?
  /// For a read: so many bytes from its start have been read nevertheless.
  var readBytes = 0
}
