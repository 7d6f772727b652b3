import SystemPackage

/// The numbers of the NBD protocol that aren't one of a kind.
enum Magic {
  static let greeting: UInt64 = 0x4e42_444d_4147_4943  // "NBDMAGIC"
  static let newstyle: UInt64 = 0x4948_4156_454f_5054  // "IHAVEOPT"
  static let oldstyle: UInt64 = 0x0000_4202_8186_1253
  static let optionReply: UInt64 = 0x0003_e889_0455_65a9
  static let request: UInt32 = 0x2560_9513
  static let simpleReply: UInt32 = 0x6744_6698
  static let structuredReply: UInt32 = 0x668e_33ef
}

/// What server and client say of themselves at first.
struct HandshakeFlags: OptionSet, Hashable, Sendable {
  let rawValue: UInt16
  static let fixedNewstyle = HandshakeFlags(rawValue: 1 << 0)
  static let noZeroes = HandshakeFlags(rawValue: 1 << 1)
}

/// What can be haggled over before an export is in use.
struct OptionType: RawRepresentable, Hashable, Sendable {
  let rawValue: UInt32
  static let exportName = OptionType(rawValue: 1)
  static let abort = OptionType(rawValue: 2)
  static let list = OptionType(rawValue: 3)
  static let startTLS = OptionType(rawValue: 5)
  static let info = OptionType(rawValue: 6)
  static let go = OptionType(rawValue: 7)
  static let structuredReply = OptionType(rawValue: 8)
  static let listMetaContext = OptionType(rawValue: 9)
  static let setMetaContext = OptionType(rawValue: 10)
}

/// The answer to an option; with the highest bit set a refusal.
struct OptionReplyType: RawRepresentable, Hashable, Sendable {
  let rawValue: UInt32
  static let ack = OptionReplyType(rawValue: 1)
  static let server = OptionReplyType(rawValue: 2)
  static let info = OptionReplyType(rawValue: 3)
  static let metaContext = OptionReplyType(rawValue: 4)
  static let unsupported = OptionReplyType(rawValue: 1 << 31 + 1)
  static let policy = OptionReplyType(rawValue: 1 << 31 + 2)
  static let invalid = OptionReplyType(rawValue: 1 << 31 + 3)
  static let platform = OptionReplyType(rawValue: 1 << 31 + 4)
  static let tlsRequired = OptionReplyType(rawValue: 1 << 31 + 5)
  static let unknown = OptionReplyType(rawValue: 1 << 31 + 6)
  static let shutdown = OptionReplyType(rawValue: 1 << 31 + 7)
  static let blockSizeRequired = OptionReplyType(rawValue: 1 << 31 + 8)
  static let tooBig = OptionReplyType(rawValue: 1 << 31 + 9)

  var isError: Bool { rawValue >> 31 == 1 }
}

/// What a server tells of an export.
struct InfoType: RawRepresentable, Hashable, Sendable {
  let rawValue: UInt16
  static let export = InfoType(rawValue: 0)
  static let name = InfoType(rawValue: 1)
  static let description = InfoType(rawValue: 2)
  static let blockSize = InfoType(rawValue: 3)
}

/// What an export can do.
struct TransmissionFlags: OptionSet, Hashable, Sendable {
  let rawValue: UInt16
  static let hasFlags = TransmissionFlags(rawValue: 1 << 0)
  static let readOnly = TransmissionFlags(rawValue: 1 << 1)
  static let sendFlush = TransmissionFlags(rawValue: 1 << 2)
  static let sendFUA = TransmissionFlags(rawValue: 1 << 3)
  static let rotational = TransmissionFlags(rawValue: 1 << 4)
  static let sendTrim = TransmissionFlags(rawValue: 1 << 5)
  static let sendWriteZeroes = TransmissionFlags(rawValue: 1 << 6)
  static let sendDF = TransmissionFlags(rawValue: 1 << 7)
  static let canMultiConn = TransmissionFlags(rawValue: 1 << 8)
  static let sendCache = TransmissionFlags(rawValue: 1 << 10)
  static let sendFastZero = TransmissionFlags(rawValue: 1 << 11)
}

/// What is asked for.
struct CommandType: RawRepresentable, Hashable, Sendable {
  let rawValue: UInt16
  static let read = CommandType(rawValue: 0)
  static let write = CommandType(rawValue: 1)
  static let disconnect = CommandType(rawValue: 2)
  static let flush = CommandType(rawValue: 3)
  static let trim = CommandType(rawValue: 4)
  static let cache = CommandType(rawValue: 5)
  static let writeZeroes = CommandType(rawValue: 6)
  static let blockStatus = CommandType(rawValue: 7)
}

/// How it is to be done.
struct CommandFlags: OptionSet, Hashable, Sendable {
  let rawValue: UInt16
  static let fua = CommandFlags(rawValue: 1 << 0)
  static let noHole = CommandFlags(rawValue: 1 << 1)
  static let dontFragment = CommandFlags(rawValue: 1 << 2)
  static let requestOne = CommandFlags(rawValue: 1 << 3)
  static let fastZero = CommandFlags(rawValue: 1 << 4)
}

/// A piece of a structured reply; with the highest bit set an error.
struct ChunkType: RawRepresentable, Hashable, Sendable {
  let rawValue: UInt16
  static let none = ChunkType(rawValue: 0)
  static let offsetData = ChunkType(rawValue: 1)
  static let offsetHole = ChunkType(rawValue: 2)
  static let blockStatus = ChunkType(rawValue: 5)
  static let error = ChunkType(rawValue: 1 << 15 + 1)
  static let errorOffset = ChunkType(rawValue: 1 << 15 + 2)

  var isError: Bool { rawValue >> 15 == 1 }
}

struct ChunkFlags: OptionSet, Hashable, Sendable {
  let rawValue: UInt16
  /// No more chunks follow for this request.
  static let done = ChunkFlags(rawValue: 1 << 0)
}

/// What is known of an extent in `base:allocation`.
struct AllocationFlags: OptionSet, Hashable, Sendable {
  let rawValue: UInt32
  static let hole = AllocationFlags(rawValue: 1 << 0)
  static let zero = AllocationFlags(rawValue: 1 << 1)
}

/// Why a request failed, as it goes over the wire: the numbers are Linux's on every system.
struct WireError: RawRepresentable, Hashable, Sendable {
  let rawValue: UInt32
  static let none = WireError(rawValue: 0)
  static let notPermitted = WireError(rawValue: 1)
  static let io = WireError(rawValue: 5)
  static let noMemory = WireError(rawValue: 12)
  static let invalid = WireError(rawValue: 22)
  static let noSpace = WireError(rawValue: 28)
  static let overflow = WireError(rawValue: 75)
  static let notSupported = WireError(rawValue: 95)
  static let shutdown = WireError(rawValue: 108)

  /// The same as this system's number; what the protocol doesn't know is an I/O error.
  var errno: Errno {
    switch self {
    case .notPermitted: .notPermitted
    case .noMemory: .noMemory
    case .invalid: .invalidArgument
    case .noSpace: .noSpace
    case .overflow: .overflow
    case .notSupported: .notSupported
    default: .ioError
    }
  }

  /// What of this system's number can be said over the wire.
  init(_ errno: Errno) {
    self =
      switch errno {
      case .notPermitted, .permissionDenied, .readOnlyFileSystem: .notPermitted
      case .noMemory: .noMemory
      case .invalidArgument: .invalid
      case .noSpace: .noSpace
      case .overflow: .overflow
      case .notSupported, .notSupportedOnSocket: .notSupported
      default: .io
      }
  }

  init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// What the protocol doesn't let grow.
enum WireLimits {
  /// Of a name, in bytes.
  static let name = 4096
  /// What is asked of a server that names no largest request, as all take it.
  static let defaultMaximum: UInt64 = 32 << 20
  /// The answer to an option, in bytes: names and descriptions.
  static let optionReply = 64 << 10
}
