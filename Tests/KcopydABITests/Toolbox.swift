import Foundation
import Testing

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// Programs and files that tests of the built library need.
enum Toolbox {
  /// The package's folder.
  static let package = URL(filePath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

  static let examples = package.appending(path: "Examples")
  static let headers = package.appending(path: "Sources/CKcopyd/include")

  /// A C compiler: the toolchain's whose Swift library runs here, or one on the PATH.
  static let compiler: String? = toolchainClang ?? find("cc") ?? find("clang") ?? find("gcc")

  static let python: String? = find("python3")
  static let make: String? = find("make")

  /// The library that was built along with these tests, beside their own program or bundle.
  static let library: String? = {
    let fileName = "liblibkcopyd.\(isDarwin ? "dylib" : "so")"
    let program = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
    var folder = URL(filePath: program ?? CommandLine.arguments[0]).resolvingSymlinksInPath()
    // On macOS the program lies some folders deep in a bundle.
    for _ in 0..<4 {
      folder.deleteLastPathComponent()
      let library = folder.appending(path: fileName).path
      if FileManager.default.fileExists(atPath: library) { return library }
    }
    return nil
  }()

  /// Whether this run is watched by a sanitizer. The library is then too, and can't be loaded by
  /// programs that aren't.
  static let isSanitized =
    dlsym(nil, "__tsan_init") != nil || dlsym(nil, "__asan_init") != nil

  private static let isDarwin: Bool = {
    #if canImport(Darwin)
      true
    #else
      false
    #endif
  }()

  private static func find(_ name: String) -> String? {
    let folders = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin"
    return folders.split(separator: ":").map { "\($0)/\(name)" }
      .first { FileManager.default.isExecutableFile(atPath: $0) }
  }

  private static var toolchainClang: String? {
    // …/usr/lib/swift/linux/libswiftCore.so
    guard let maps = try? String(contentsOfFile: "/proc/self/maps", encoding: .utf8),
      let line = maps.split(separator: "\n").first(where: { $0.hasSuffix("/libswiftCore.so") }),
      let start = line.firstIndex(of: "/")
    else { return nil }
    var folder = URL(filePath: String(line[start...]))
    for _ in 0..<4 { folder.deleteLastPathComponent() }
    let clang = folder.appending(path: "bin/clang").path
    return FileManager.default.isExecutableFile(atPath: clang) ? clang : nil
  }

  /// What became of a program.
  struct Outcome {
    let status: Int32
    let output: String
    let errors: String
  }

  /// Runs a program to its end. What it writes goes to files: pipes can fill up.
  static func run(
    _ program: String, _ arguments: [String], in folder: TemporaryFolder,
    environment: [String: String] = [:]
  ) throws -> Outcome {
    let names = ["output", "errors"].map { "\($0)-\(UUID().uuidString)" }
    let files = try names.map { name in
      try FileHandle(forWritingTo: URL(filePath: try folder.file(name, [])))
    }
    let process = Process()
    process.executableURL = URL(filePath: program)
    process.arguments = arguments
    process.currentDirectoryURL = folder.url
    process.environment =
      ProcessInfo.processInfo.environment.merging(environment) { _, new in new }
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = files[0]
    process.standardError = files[1]
    try process.run()
    process.waitUntilExit()
    for file in files { try file.close() }
    let texts = try names.map { String(decoding: try folder.bytes($0), as: UTF8.self) }
    return Outcome(status: process.terminationStatus, output: texts[0], errors: texts[1])
  }

  /// Compiles `source` with warnings as errors; the test fails with the compiler's words.
  static func compile(_ source: String, _ options: [String], in folder: TemporaryFolder) throws {
    let warnings = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-I\(headers.path)"]
    let outcome = try run(
      try #require(compiler), warnings + [source] + options, in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
  }
}

extension Trait where Self == ConditionTrait {
  static var needsCompiler: Self {
    .enabled(if: Toolbox.compiler != nil, "no C compiler: neither with Swift nor on the PATH")
  }
  static var needsMake: Self { .enabled(if: Toolbox.make != nil, "no make on the PATH") }
  static var needsPython: Self { .enabled(if: Toolbox.python != nil, "no python3 on the PATH") }
  static var needsPlainLibrary: Self {
    .disabled(if: Toolbox.isSanitized, "a sanitized library can't be loaded by other programs")
  }
}
