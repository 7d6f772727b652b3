import BareLoops
import Glibc

/// An open file, closed when the last reference goes.
final class Descriptor {
  let number: CInt
  let path: String

  enum Mode {
    case create
    case readWrite
  }

  init(_ path: String, _ mode: Mode = .readWrite, direct: Bool = false) throws(BenchmarkError) {
    var flags = O_RDWR | O_CLOEXEC
    if mode == .create { flags |= O_CREAT | O_EXCL }
    if direct { flags |= Self.directFlag }
    number = open(path, flags, 0o600)
    self.path = path
    guard number >= 0 else {
      throw .system(operation: "open", path: path, errno: errno)
    }
  }

  deinit { if number >= 0 { close(number) } }

  /// `O_DIRECT`, which Swift's Glibc module does not declare because its value differs by machine.
  private static let directFlag = bare_direct_flag()

  func read(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(BenchmarkError) {
    let count = pread(number, buffer.baseAddress, buffer.count, off_t(offset))
    try check(count, of: buffer.count, "read")
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: Int) throws(BenchmarkError) {
    let count = pwrite(number, buffer.baseAddress, buffer.count, off_t(offset))
    try check(count, of: buffer.count, "write")
  }

  private func check(_ count: Int, of wanted: Int, _ operation: String) throws(BenchmarkError) {
    guard count != wanted else { return }
    throw .system(operation: operation, path: path, errno: count < 0 ? errno : EIO)
  }

  /// Everything dirty in the file's file system goes to the disk.
  func syncFileSystem() throws(BenchmarkError) {
    let error = bare_sync_file_system(number)
    guard error == 0 else { throw .system(operation: "syncfs", path: path, errno: error) }
  }

  /// Takes the file's clean pages out of the page cache.
  func dropFromCache() throws(BenchmarkError) {
    let error = posix_fadvise(number, 0, 0, POSIX_FADV_DONTNEED)
    guard error == 0 else {
      throw .system(operation: "posix_fadvise", path: path, errno: error)
    }
  }
}
