import BlockIO
import BlockIOTesting
import Foundation
import SystemPackage
import Testing

/// What this machine lets be tested.
enum Machine {
  /// Whether the kernel lets io_uring be used.
  static let hasRing: Bool = {
    guard let loop = try? IOLoop.start(backend: .uring) else { return false }
    loop.stop()
    return true
  }()

  /// The backends with threads and files.
  static let backends: [BackendChoice] = hasRing ? [.threads, .uring] : [.threads]

  /// Folders on file systems of different kinds: disk and memory.
  static let folders: [String] = {
    let disk = ProcessInfo.processInfo.environment["TMPDIR"] ?? "/tmp"
    return [disk, "/dev/shm"].filter { FileManager.default.isWritableFile(atPath: $0) }
  }()

  /// Whether files in that folder can bypass the page cache.
  static func canBypassPageCache(in folder: String) -> Bool {
    let isPossible = try? withTemporaryFolder(in: folder) { folder in
      let loop = try IOLoop.start(backend: .threads)
      defer { loop.stop() }
      return try FileDevice.create("\(folder)/probe", byteCount: 4096, direct: .on, on: loop)
        .isDirect
    }
    return isPossible ?? false
  }
}

/// A way to use files: one of all that this machine can do.
struct FileSetup: Sendable, CustomTestStringConvertible {
  let backend: BackendChoice
  let direct: DirectChoice
  let folder: String

  var testDescription: String { "\(backend) \(folder) direct \(direct)" }

  static let all: [FileSetup] = Machine.folders.flatMap { folder in
    let choices: [DirectChoice] =
      Machine.canBypassPageCache(in: folder) ? [.off, .on] : [.off]
    return choices.flatMap { direct in
      Machine.backends.map { FileSetup(backend: $0, direct: direct, folder: folder) }
    }
  }

  /// Calls `body` on a loop of this kind with a folder of this kind.
  func run(
    _ body: @escaping @Sendable (_ loop: IOLoop, _ folder: String) async throws -> Void
  ) async throws {
    try await withTemporaryFolder(in: folder) { folder in
      try await onLoop(backend) { loop in try await body(loop, folder) }
    }
  }

  /// Calls `body` with a device on a new file of that content.
  func runWithDevice(
    _ bytes: [UInt8],
    _ body: @escaping @Sendable (_ device: FileDevice, _ path: String) async throws -> Void
  ) async throws {
    try await run { [direct] loop, folder in
      let path = "\(folder)/file"
      try put(bytes, path)
      let device = try FileDevice.open(
        path, FileDevice.Options(isWritable: true, direct: direct), on: loop)
      #expect(device.isDirect == (direct == .on))
      try await body(device, path)
    }
  }
}

/// Runs `body` on a new loop with a thread of its own.
func onLoop<R: Sendable>(
  _ backend: BackendChoice, _ body: @escaping @Sendable (IOLoop) async throws -> R
) async throws -> R {
  let loop = try IOLoop.start(backend: backend)
  defer { loop.stop() }
  return try await Task(executorPreference: loop) { try await body(loop) }.value
}

/// Calls `body` with a new folder that is removed after it.
func withTemporaryFolder<R>(
  in base: String = Machine.folders[0], _ body: (String) throws -> R
) throws -> R {
  let folder = "\(base)/blockio-\(UUID().uuidString)"
  try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
  defer { try? FileManager.default.removeItem(atPath: folder) }
  return try body(folder)
}

/// As above, for asynchronous bodies.
func withTemporaryFolder<R>(
  in base: String = Machine.folders[0], _ body: (String) async throws -> R
) async throws -> R {
  let folder = "\(base)/blockio-\(UUID().uuidString)"
  try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
  defer { try? FileManager.default.removeItem(atPath: folder) }
  return try await body(folder)
}

/// Makes a file of these bytes.
func put(_ bytes: [UInt8], _ path: String) throws {
  let file = try FileDescriptor.open(
    FilePath(path), .writeOnly, options: [.create, .truncate],
    permissions: [.ownerReadWrite])
  defer { try? file.close() }
  _ = try bytes.withUnsafeBytes { try file.writeAll($0) }
}

/// Sets the length of a file.
func resize(_ path: String, to byteCount: Int64) throws {
  let file = try FileDescriptor.open(FilePath(path), .writeOnly)
  defer { try? file.close() }
  try file.resize(to: byteCount)
}

/// The bytes of a file, read past the code under test.
func get(_ path: String) throws -> [UInt8] {
  [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
}

/// The failure of `body`; nil when there is none.
func failure(_ body: () async throws -> Void) async -> IOFailure? {
  do {
    try await body()
    return nil
  } catch {
    if !(error is IOFailure) { Issue.record(error) }
    return error as? IOFailure
  }
}

/// Why `body` doesn't give what it should; nil when it does.
func refusal<R>(_ body: () throws -> R) -> IOFailure? {
  do {
    _ = try body()
    return nil
  } catch {
    if !(error is IOFailure) { Issue.record(error) }
    return error as? IOFailure
  }
}

/// Whole sectors around `byteCount` bytes of `pattern`, cut to that length.
func patternBytes(_ pattern: Pattern, byteCount: Int) -> [UInt8] {
  Array(pattern.bytes(.zero..<Sector(holding: UInt64(byteCount))).prefix(byteCount))
}
