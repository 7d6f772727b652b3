import BareLoops
import Glibc

/// Commands that run at once and are measured as one.
struct Processes {
  var name: String
  var commands: [[String]]

  /// A program that does nothing, to see what a process costs.
  static let nothing = Processes(name: "true", commands: [["/bin/true"]])

  /// - Parameter folder: where their standard error goes, to be read when one of them fails.
  func run(in folder: TemporaryFolder) throws(BenchmarkError) -> Entrant.Sample {
    let errorPath = folder.path("stderr")
    let errorOutput = try Descriptor(errorPath, .create)
    defer { unlink(errorPath) }

    var arguments: [UnsafeMutablePointer<CChar>?] = []
    for command in commands { arguments += command.map { strdup($0) } + [nil] }
    defer { for argument in arguments { free(argument) } }

    var usage = bare_usage()
    let result = bare_run_processes(
      arguments, UInt32(commands.count), errorOutput.number, &usage)
    guard result.error == 0 else {
      throw .system(operation: "run", path: name, errno: result.error)
    }
    guard usage.failed < 0 else {
      let output = Self.firstLine(of: errorOutput)
      throw .process(name: name, status: usage.status, output: output)
    }
    return Entrant.Sample(
      seconds: Double(result.elapsed_ns) / 1e9, peakKiB: Int(usage.peak_kib))
  }

  /// A program tells its trouble first and its usage after.
  private static func firstLine(of file: Descriptor) -> String {
    var bytes = [UInt8](repeating: 0, count: 400)
    let count = bytes.withUnsafeMutableBytes { pread(file.number, $0.baseAddress, $0.count, 0) }
    let text = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
    return text.split(separator: "\n").first.map(String.init) ?? ""
  }
}
