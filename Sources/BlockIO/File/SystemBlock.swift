import SystemPackage

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// What Linux tells of a block device in its `sysfs`.
struct SystemBlock {
  private let folder: String?

  /// The device of that number.
  init(device: UInt64) {
    #if os(Linux)
      let major = (device >> 8 & 0xfff) | (device >> 32 & ~0xfff)
      let minor = (device & 0xff) | (device >> 12 & ~0xff & 0xffff_ffff)
      folder = "/sys/dev/block/\(major):\(minor)"
    #else
      folder = nil
    #endif
  }

  /// The first line of an attribute; nil: there is none.
  func text(_ attribute: String) -> String? {
    guard let folder,
      let file = try? FileDescriptor.open(FilePath("\(folder)/\(attribute)"), .readOnly)
    else { return nil }
    defer { try? file.close() }
    // No attribute is longer than a page.
    var bytes = [UInt8](repeating: 0, count: 4096)
    guard let count = try? bytes.withUnsafeMutableBytes({ try file.read(into: $0) }) else {
      return nil
    }
    return String(decoding: bytes[..<count], as: UTF8.self)
      .split(separator: "\n").first.map(String.init)
  }

  func number(_ attribute: String) -> UInt64? { text(attribute).flatMap { UInt64($0) } }

  /// An attribute that is a device number, such as `8:1`.
  func device(_ attribute: String) -> UInt64? {
    guard let parts = text(attribute)?.split(separator: ":"), parts.count == 2,
      let major = UInt64(parts[0]), let minor = UInt64(parts[1])
    else { return nil }
    return (minor & 0xff) | (major & 0xfff) << 8 | (minor & ~0xff) << 12 | (major & ~0xfff) << 32
  }

  /// An attribute of the request queue; a partition has its disk's.
  func queue(_ attribute: String) -> String? {
    text("queue/\(attribute)") ?? text("../queue/\(attribute)")
  }

  /// The devices that a stacked one is made of.
  var slaves: [String] {
    guard let folder, let stream = opendir("\(folder)/slaves") else { return [] }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
      // The name ends with a zero, inside the entry.
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names.sorted()
  }
}
