import Glibc

/// Why a measurement could not be made, or must not be believed.
enum BenchmarkError: Error, Equatable, CustomStringConvertible {
  /// A system call on a file failed.
  case system(operation: String, path: String, errno: CInt)
  /// A bare loop failed.
  case loop(name: String, errno: CInt)
  /// A process ended with something other than success.
  case process(name: String, status: CInt, output: String)
  /// A destination does not hold the source's bytes.
  case wrongData(path: String, offset: Int)
  /// The verification itself is broken: it let a planted fault pass.
  case canary(String)
  /// The engine refused or failed a copy.
  case engine(String)

  var description: String {
    switch self {
    case .system(let operation, let path, let errno):
      "\(operation) \(path): \(Self.text(errno))"
    case .loop(let name, let errno):
      "\(name): \(Self.text(errno))"
    case .process(let name, let status, let output):
      "\(name) \(Self.ending(status))\(output.isEmpty ? "" : ": \(output)")"
    case .wrongData(let path, let offset):
      "\(path) differs from the source at byte \(offset)"
    case .canary(let fault):
      "the verification cannot be trusted: \(fault)"
    case .engine(let reason):
      "the engine: \(reason)"
    }
  }

  /// What `wait4` says of a process: a signal in the low seven bits, or a status above them.
  private static func ending(_ status: CInt) -> String {
    let signal = status & 0x7f
    return signal == 0 ? "exited with \((status >> 8) & 0xff)" : "died of signal \(signal)"
  }

  private static func text(_ errno: CInt) -> String {
    guard let text = strerror(errno) else { return "errno \(errno)" }
    return String(cString: text)
  }
}
