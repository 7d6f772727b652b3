public import BlockIO
import Foundation
import SystemPackage

/// The few things that are done to the files of a map: real in a folder, simulated in tests.
public protocol MapFolder: Sendable {
  /// Everything in a file; nil if there is none.
  func read(_ name: String) async throws(IOFailure) -> [UInt8]?
  /// Makes a file, or replaces its content. Not durable, and not in one piece.
  func write(_ name: String, _ bytes: [UInt8]) async throws(IOFailure)
  /// Makes a file's content durable.
  func sync(_ name: String) async throws(IOFailure)
  /// Gives a file another name, in the place of who had it: in one piece, but not durable.
  func rename(_ name: String, to other: String) async throws(IOFailure)
  /// Makes the names durable.
  func syncNames() async throws(IOFailure)
  /// Makes a text that may be long, where that holds nobody up.
  func make<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R
}

/// A folder of the file system.
public struct SystemFolder: MapFolder {
  private let path: String
  private let loop: IOLoop

  /// The folder at `path`; calls that block are made on threads of `loop`.
  public init(_ path: String, on loop: IOLoop) {
    self.path = path
    self.loop = loop
  }

  private func file(_ name: String) -> String { "\(path)/\(name)" }

  public func read(_ name: String) async throws(IOFailure) -> [UInt8]? {
    let file = file(name)
    return try await call(.read, file) { () throws -> [UInt8]? in
      let descriptor: FileDescriptor
      do {
        descriptor = try FileDescriptor.open(file, .readOnly)
      } catch let error as Errno where error == .noSuchFileOrDirectory {
        return nil
      }
      defer { try? descriptor.close() }
      var bytes: [UInt8] = []
      var piece = [UInt8](repeating: 0, count: 1 << 16)
      while true {
        let count = try piece.withUnsafeMutableBytes { try descriptor.read(into: $0) }
        if count == 0 { return bytes }
        bytes += piece[..<count]
      }
    }
  }

  public func write(_ name: String, _ bytes: [UInt8]) async throws(IOFailure) {
    let file = file(name)
    try await call(.write, file) {
      let descriptor = try FileDescriptor.open(
        file, .writeOnly, options: [.create, .truncate],
        permissions: [.ownerReadWrite, .groupRead, .otherRead])
      try descriptor.closeAfter { _ = try descriptor.writeAll(bytes) }
    }
  }

  public func sync(_ name: String) async throws(IOFailure) {
    try await sync(path: file(name))
  }

  public func rename(_ name: String, to other: String) async throws(IOFailure) {
    let (from, to) = (file(name), file(other))
    try await call(.write, to) {
      if Foundation.rename(from, to) != 0 { throw Errno(rawValue: errno) }
    }
  }

  public func syncNames() async throws(IOFailure) { try await sync(path: path) }

  public func make<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
    await loop.blocking(body)
  }

  private func sync(path: String) async throws(IOFailure) {
    try await call(.flush, path) {
      let descriptor = try FileDescriptor.open(path, .readOnly)
      try descriptor.closeAfter {
        if fsync(descriptor.rawValue) != 0 { throw Errno(rawValue: errno) }
      }
    }
  }

  private func call<R: Sendable>(
    _ operation: IOFailure.Operation, _ path: String, _ body: @escaping @Sendable () throws -> R
  ) async throws(IOFailure) -> R {
    let result = await loop.blocking { () -> Result<R, IOFailure> in
      do {
        return .success(try body())
      } catch {
        return .failure(IOFailure(operation, path, errno: error as? Errno ?? .ioError))
      }
    }
    return try result.get()
  }
}
