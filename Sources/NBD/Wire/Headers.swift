import NIOCore

// All numbers go over the wire with the highest byte first, which is what ByteBuffer does.

/// What a client wants of an option, before its data.
struct OptionHeader: Hashable, Sendable {
  static let size = 16
  var option: OptionType
  var length: UInt32

  func write(to buffer: inout ByteBuffer) {
    buffer.writeMultipleIntegers(Magic.newstyle, option.rawValue, length)
  }

  /// nil: not all of it is there, or it is none.
  init?(_ buffer: inout ByteBuffer) {
    guard
      let (magic, option, length) = buffer.readMultipleIntegers(
        as: (UInt64, UInt32, UInt32).self), magic == Magic.newstyle
    else { return nil }
    self.init(OptionType(rawValue: option), length: length)
  }

  init(_ option: OptionType, length: UInt32) {
    self.option = option
    self.length = length
  }
}

/// A server's answer to an option, before its data.
struct OptionReplyHeader: Hashable, Sendable {
  static let size = 20
  var option: OptionType
  var type: OptionReplyType
  var length: UInt32

  func write(to buffer: inout ByteBuffer) {
    buffer.writeMultipleIntegers(
      Magic.optionReply, option.rawValue, type.rawValue, length)
  }

  /// nil: not all of it is there, or it is none.
  init?(_ buffer: inout ByteBuffer) {
    guard
      let (magic, option, type, length) = buffer.readMultipleIntegers(
        as: (UInt64, UInt32, UInt32, UInt32).self), magic == Magic.optionReply
    else { return nil }
    self.init(OptionType(rawValue: option), OptionReplyType(rawValue: type), length: length)
  }

  init(_ option: OptionType, _ type: OptionReplyType, length: UInt32) {
    self.option = option
    self.type = type
    self.length = length
  }
}

/// A request, before its data.
struct RequestHeader: Hashable, Sendable {
  static let size = 28
  var flags: CommandFlags
  var command: CommandType
  var cookie: UInt64
  var offset: UInt64
  var length: UInt32

  func write(to buffer: inout ByteBuffer) {
    buffer.writeMultipleIntegers(
      Magic.request, flags.rawValue, command.rawValue, cookie, offset, length)
  }

  /// nil: not all of it is there, or it is none.
  init?(_ buffer: inout ByteBuffer) {
    guard
      let (magic, flags, command, cookie, offset, length) = buffer.readMultipleIntegers(
        as: (UInt32, UInt16, UInt16, UInt64, UInt64, UInt32).self), magic == Magic.request
    else { return nil }
    self.init(
      CommandType(rawValue: command), flags: CommandFlags(rawValue: flags), cookie: cookie,
      offset: offset, length: length)
  }

  init(
    _ command: CommandType, flags: CommandFlags = [], cookie: UInt64, offset: UInt64 = 0,
    length: UInt32 = 0
  ) {
    self.flags = flags
    self.command = command
    self.cookie = cookie
    self.offset = offset
    self.length = length
  }
}

/// The head of an answer.
enum ReplyHeader: Hashable, Sendable {
  /// The only answer to a request; after a successful read its data.
  case simple(error: WireError, cookie: UInt64)
  /// A piece of a structured reply, with so many bytes after it.
  case chunk(type: ChunkType, flags: ChunkFlags, cookie: UInt64, length: UInt32)

  /// How long the head is that starts with this magic; nil: it is none.
  static func size(magic: UInt32) -> Int? {
    switch magic {
    case Magic.simpleReply: 16
    case Magic.structuredReply: 20
    default: nil
    }
  }

  func write(to buffer: inout ByteBuffer) {
    switch self {
    case .simple(let error, let cookie):
      buffer.writeMultipleIntegers(Magic.simpleReply, error.rawValue, cookie)
    case .chunk(let type, let flags, let cookie, let length):
      buffer.writeMultipleIntegers(
        Magic.structuredReply, flags.rawValue, type.rawValue, cookie, length)
    }
  }

  /// nil: not all of it is there, or it is none.
  init?(_ buffer: inout ByteBuffer) {
    guard let magic = buffer.getInteger(at: buffer.readerIndex, as: UInt32.self),
      let size = Self.size(magic: magic), buffer.readableBytes >= size
    else { return nil }
    buffer.moveReaderIndex(forwardBy: 4)
    if magic == Magic.simpleReply {
      guard let (error, cookie) = buffer.readMultipleIntegers(as: (UInt32, UInt64).self) else {
        return nil
      }
      self = .simple(error: WireError(rawValue: error), cookie: cookie)
    } else {
      guard
        let (flags, type, cookie, length) = buffer.readMultipleIntegers(
          as: (UInt16, UInt16, UInt64, UInt32).self)
      else { return nil }
      self = .chunk(
        type: ChunkType(rawValue: type), flags: ChunkFlags(rawValue: flags), cookie: cookie,
        length: length)
    }
  }
}
