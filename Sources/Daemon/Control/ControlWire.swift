import Foundation
import NIOCore

/// A request as it stands in a line.
struct RequestEnvelope: Codable {
  var kcopyd: Int
  var request: ControlRequest
}

/// A reply as it stands in a line.
struct ReplyEnvelope: Codable {
  var kcopyd: Int
  var reply: ControlReply
}

/// Lines to values and back.
enum ControlWire {
  static func encode(_ request: ControlRequest) -> ByteBuffer {
    line(RequestEnvelope(kcopyd: ControlLine.version, request: request))
  }

  static func encode(_ reply: ControlReply) -> ByteBuffer {
    line(ReplyEnvelope(kcopyd: ControlLine.version, reply: reply))
  }

  private static func line(_ value: some Encodable) -> ByteBuffer {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    do {
      return ByteBuffer(bytes: try encoder.encode(value) + Data([UInt8(ascii: "\n")]))
    } catch {
      // Strings, integers and truth values only: there is nothing that JSON can't say.
      preconditionFailure("a line of the control protocol: \(error)")
    }
  }

  static func decodeRequest(_ line: ByteBuffer) throws(ControlFailure) -> ControlRequest {
    let envelope: RequestEnvelope = try decode(line, "request")
    return envelope.request
  }

  static func decodeReply(_ line: ByteBuffer) throws(ControlFailure) -> ControlReply {
    let envelope: ReplyEnvelope = try decode(line, "reply")
    return envelope.reply
  }

  /// The version by itself, for lines of another one.
  private struct VersionOnly: Codable { var kcopyd: Int }

  private static func decode<Value: Decodable>(
    _ line: ByteBuffer, _ what: String
  ) throws(ControlFailure) -> Value {
    let data = Data(line.readableBytesView)
    if let version = try? JSONDecoder().decode(VersionOnly.self, from: data).kcopyd,
      version != ControlLine.version
    {
      throw .refused(
        "version \(version) of the control protocol isn't known; \(ControlLine.version) is")
    }
    do {
      return try JSONDecoder().decode(Value.self, from: data)
    } catch let error as DecodingError {
      throw .refused("this line is no \(what): \(error.inWords)")
    } catch {
      throw .refused("this line is no \(what)")
    }
  }
}

extension DecodingError {
  /// What is wrong, and where.
  var inWords: String {
    switch self {
    case .dataCorrupted(let context):
      context.codingPath.isEmpty ? "not JSON" : "\(context.place): \(context.debugDescription)"
    case .keyNotFound(let key, let context): "\(context.place): '\(key.stringValue)' is missing"
    case .typeMismatch(_, let context), .valueNotFound(_, let context):
      "\(context.place): \(context.debugDescription)"
    @unknown default: "it can't be understood"
    }
  }
}

extension DecodingError.Context {
  /// Where: the names on the way to it.
  fileprivate var place: String {
    codingPath.isEmpty
      ? "at its top"
      : codingPath.map { $0.intValue.map { "\($0)" } ?? $0.stringValue }
        .joined(separator: ".")
  }
}

/// Cuts a stream into lines, and refuses one that is too long.
struct LineDecoder: NIOSingleStepByteToMessageDecoder {
  typealias InboundOut = ByteBuffer

  private let maximum: Int
  /// How much has been looked at.
  private var seen = 0

  /// - Parameter maximum: the longest line, in bytes.
  init(maximum: Int) { self.maximum = maximum }

  mutating func decode(buffer: inout ByteBuffer) throws -> ByteBuffer? {
    let fresh = buffer.readableBytesView.dropFirst(seen)
    guard let end = fresh.firstIndex(of: UInt8(ascii: "\n")) else {
      seen = buffer.readableBytes
      if seen > maximum { throw LineTooLong() }
      return nil
    }
    let length = end - buffer.readerIndex
    seen = 0
    if length > maximum { throw LineTooLong() }
    let line = buffer.readSlice(length: length)
    buffer.moveReaderIndex(forwardBy: 1)
    return line
  }

  mutating func decodeLast(buffer: inout ByteBuffer, seenEOF: Bool) throws -> ByteBuffer? {
    // What isn't ended by a newline isn't a request.
    try decode(buffer: &buffer)
  }
}

/// A line beyond the longest one.
struct LineTooLong: Error {}
