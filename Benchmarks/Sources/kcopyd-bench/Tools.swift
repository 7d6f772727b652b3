import BareLoops
import Glibc

/// Where the programs are that take part.
struct Tools {
  /// The `kcopyd` command, if there is one.
  var kcopyd: String?

  private let searchPath: [String]

  init(kcopyd: String?) {
    let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
    searchPath = path.split(separator: ":").map(String.init)
    self.kcopyd = kcopyd ?? Self.builtCommand()
  }

  func find(_ program: String) -> String? {
    searchPath.map { "\($0)/\(program)" }.first(where: Self.isProgram)
  }

  static func isProgram(_ path: String) -> Bool { access(path, X_OK) == 0 }

  /// The command that stands beside this program, or in the release build of a package around it.
  private static func builtCommand() -> String? {
    var folder = executablePath()[...]
    var candidates: [String] = []
    while let slash = folder.lastIndex(of: "/") {
      folder = folder[..<slash]
      if candidates.isEmpty { candidates.append("\(folder)/kcopyd") }
      candidates.append("\(folder)/.build/release/kcopyd")
    }
    return candidates.first(where: isProgram)
  }

  private static func executablePath() -> String {
    var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = readlink("/proc/self/exe", &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(count, 0)).map(UInt8.init(bitPattern:)), as: UTF8.self)
  }
}
