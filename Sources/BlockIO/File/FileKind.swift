import SystemPackage

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#elseif canImport(Darwin)
  import Darwin
#endif

/// What `stat` says of a file, as far as a device needs it.
struct FileKind: Equatable {
  enum FileType { case regular, blockSpecial, directory, other }

  let type: FileType
  let device: UInt64
  let inode: UInt64
  let specialDevice: UInt64
  let preferredBlock: Int
  let byteCount: UInt64

  var isBlockSpecial: Bool { type == .blockSpecial }

  /// The file of that name, links followed; nil: `errno` says why.
  init?(path: String) {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    self.init(status)
  }

  /// An open file; nil: `errno` says why.
  init?(file: FileDescriptor) {
    var status = stat()
    guard fstat(file.rawValue, &status) == 0 else { return nil }
    self.init(status)
  }

  private init(_ status: stat) {
    type =
      switch status.st_mode & S_IFMT {
      case S_IFREG: .regular
      case S_IFBLK: .blockSpecial
      case S_IFDIR: .directory
      default: .other
      }
    device = UInt64(truncatingIfNeeded: status.st_dev)
    inode = UInt64(truncatingIfNeeded: status.st_ino)
    specialDevice = UInt64(truncatingIfNeeded: status.st_rdev)
    preferredBlock = Int(status.st_blksize)
    byteCount = UInt64(max(0, status.st_size))
  }

  /// The same file: a size that changes meanwhile makes no other.
  static func == (left: FileKind, right: FileKind) -> Bool {
    left.type == right.type && left.device == right.device && left.inode == right.inode
      && left.specialDevice == right.specialDevice
  }
}
