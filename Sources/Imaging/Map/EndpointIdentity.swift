public import BlockIO
import Foundation

/// What a source or a destination is, in words that outlive a restart where the system has some.
public enum EndpointIdentity {
  /// The words for a device:
  ///
  /// - `file:INODE` for a regular file – the number of its file system changes with a restart;
  /// - `disk:…` with what the disk says of itself (world-wide name, serial number), the unique
  ///   name of a mapped device, or the file behind a loop device, and the partition;
  /// - `nbd:SERVER/EXPORT` for an export of a server;
  /// - `number:MAJOR:MINOR` for a disk that says nothing, which may be another one next time.
  public static func of(_ device: any BlockDevice) -> String {
    switch device.identity {
    case .file(_, let inode): "file:\(inode)"
    case .blockSpecial(let number): disk(number)
    case .network(let server, let export): "nbd:\(server)/\(export)"
    case .object: "object:\(device.name)"
    }
  }

  /// Whether an identity means the same one after a restart, too.
  static func isStable(_ identity: String) -> Bool { !identity.hasPrefix("number:") }

  /// Whether two identities may be of one device.
  static func areSame(_ one: String, _ other: String) -> Bool {
    one == other || (!isStable(one) && !isStable(other))
  }

  private static func disk(_ number: UInt64) -> String {
    let major = (number >> 8 & 0xfff) | (number >> 32 & ~0xfff)
    let minor = (number & 0xff) | (number >> 12 & ~0xff & 0xffff_ffff)
    let folder = "/sys/dev/block/\(major):\(minor)"
    let partition = text("\(folder)/partition")
    let disk = partition == nil ? folder : "\(folder)/.."
    for attribute in [
      "wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "loop/backing_file",
    ] {
      guard let name = text("\(disk)/\(attribute)") else { continue }
      return "disk:\(name)" + (partition.map { ":\($0)" } ?? "")
    }
    return "number:\(major):\(minor)"
  }

  private static func text(_ path: String) -> String? {
    guard let data = FileManager.default.contents(atPath: path) else { return nil }
    let text = String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    return text.isEmpty ? nil : text
  }
}
