import Foundation
import Testing

/// Runs the built command as a person would.
struct Command {
  struct Outcome {
    let status: Int32
    let output: String
    let errors: String
  }

  /// Beside the test bundle, where the build puts it.
  static let path: String = {
    #if os(Linux)
      let own = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    #else
      let own =
        Bundle.allBundles.first { $0.bundlePath.hasSuffix(".xctest") }?.bundleURL
        ?? URL(fileURLWithPath: CommandLine.arguments[0])
    #endif
    return own.deletingLastPathComponent().appendingPathComponent("kcopyd").path
  }()

  /// Runs it to its end.
  static func run(_ arguments: String..., in folder: Folder) throws -> Outcome {
    try start(arguments, in: folder).finish()
  }

  static func run(_ arguments: [String], in folder: Folder) throws -> Outcome {
    try start(arguments, in: folder).finish()
  }

  static func start(_ arguments: [String], in folder: Folder) throws -> Running {
    try Running(arguments, in: folder)
  }

  /// One that is under way.
  final class Running {
    let process = Process()
    private let output: URL
    private let errors: URL

    init(_ arguments: [String], in folder: Folder) throws {
      process.executableURL = URL(fileURLWithPath: Command.path)
      process.arguments = arguments
      process.currentDirectoryURL = URL(fileURLWithPath: folder.path)
      process.environment = ProcessInfo.processInfo.environment
        .merging(["TMPDIR": folder.path]) { $1 }
      // Files and not pipes: nothing needs to be read while it runs.
      output = folder.scratch()
      errors = folder.scratch()
      process.standardOutput = try Self.handle(output)
      process.standardError = try Self.handle(errors)
      try process.run()
    }

    private static func handle(_ url: URL) throws -> FileHandle {
      try Data().write(to: url)
      return try FileHandle(forWritingTo: url)
    }

    func finish() throws -> Outcome {
      process.waitUntilExit()
      #expect(process.terminationReason == .exit, "ended by a signal")
      return Outcome(
        status: process.terminationStatus,
        output: String(decoding: try Data(contentsOf: output), as: UTF8.self),
        errors: String(decoding: try Data(contentsOf: errors), as: UTF8.self))
    }
  }
}

/// A temporary folder, gone with its last reference.
final class Folder {
  let path: String
  private var scratches = 0
  private let hidden: String

  init() throws {
    let base = FileManager.default.temporaryDirectory
      .appendingPathComponent("kcopyd-tests-\(UUID().uuidString)")
    path = base.appendingPathComponent("work").path
    hidden = base.path
    try FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: hidden) }

  /// A file beside the folder that tests look at.
  func scratch() -> URL {
    scratches += 1
    return URL(fileURLWithPath: "\(hidden)/scratch-\(scratches)")
  }

  func file(_ name: String) -> String { "\(path)/\(name)" }

  func write(_ name: String, _ data: Data) throws {
    try data.write(to: URL(fileURLWithPath: file(name)))
  }

  func read(_ name: String) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: file(name)))
  }

  var names: [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
  }
}

/// Bytes that differ from place to place, and with the seed.
func pattern(_ count: Int, seed: UInt64 = 1) -> Data {
  var state = seed
  let words = (0..<(count + 7) / 8).map { _ in
    state &+= 0x9E37_79B9_7F4A_7C15
    return (state ^ (state >> 29)) &* 0xBF58_476D_1CE4_E5B9
  }
  return words.withUnsafeBytes { Data($0.prefix(count)) }
}
