import BlockIO
import BlockIOTesting
import DeviceMapper
import Mirrors
import SystemPackage

/// The `dmsetup` of the vectors: a mapper over the disks of a test, with the kernel's numbers.
package struct VectorMapper: Sendable {
  /// The disks by path.
  private let disks: [String: any BlockDevice]
  private let mapper: DeviceMapper
  private let loop: IOLoop

  package init(
    _ disks: [String: any BlockDevice], mirrors conduct: MirrorParameters.Conduct, on loop: IOLoop
  ) {
    self.disks = disks
    self.loop = loop
    var configuration = DeviceMapper.Configuration()
    configuration.mirrorConduct = conduct
    configuration.randomSeed = 0
    // The numbers that the kernel gave: disks have 16 minor numbers each.
    let paths = disks.keys.sorted()
    let opener = DeviceOpener(
      number: { path, _ in paths.firstIndex(of: path).map { "254:\($0 * 16)" } },
      open: { (path, _) async throws(IOFailure) in
        guard let disk = disks[path] else {
          throw IOFailure(.open, path, errno: .noSuchFileOrDirectory)
        }
        return disk
      })
    mapper = DeviceMapper(opener, configuration: configuration, on: loop)
  }

  /// The device of a path.
  package func device(_ path: String) async throws -> any BlockDevice {
    if let disk = disks[path] { return disk }
    let handle = try await mapper.open(path)
    await handle.close()
    return handle.device
  }

  // MARK: Commands

  /// Makes a device and resumes it.
  package func create(_ name: String, _ table: [String], isReadOnly: Bool) async throws {
    try await mapper.create(name, table: table.joined(separator: "\n"), isReadOnly: isReadOnly)
  }

  /// Gives a device another table, from its next resume on.
  package func reload(_ name: String, _ table: [String]) async throws {
    try await mapper.load(name, table.joined(separator: "\n"))
  }

  /// What `dmsetup table` prints.
  package func table(_ name: String) async throws -> String {
    try await mapper.table(name).joined(separator: "\n")
  }

  /// What `dmsetup status` prints.
  package func status(_ name: String) async throws -> String {
    try await mapper.status(name).joined(separator: "\n")
  }

  package func suspend(_ name: String, isNoFlush: Bool) async throws {
    try await mapper.suspend(name, isNoFlush: isNoFlush)
  }

  package func resume(_ name: String) async throws { try await mapper.resume(name) }
  package func remove(_ name: String) async throws { try await mapper.remove(name) }

  /// Ends everything where power has failed: nothing reaches the disks any more.
  package func abandon() async {
    for record in await mapper.records().reversed() { _ = try? await mapper.remove(record.name) }
  }

  /// Waits until the merge of that name is at its end, and returns its status.
  package func waitForMerge(_ name: String) async throws -> String {
    try await wait(name) { words in
      // Used, total and metadata sectors: only the header is left.
      guard let counts = words.dropFirst(3).first?.split(separator: "/"), counts.count == 2 else {
        return true
      }
      return counts[0] == words.last ?? ""
    }
  }

  /// Waits until as many regions of a mirror are in sync as `until` says, and returns its status.
  package func waitForMirror(_ name: String, until: String) async throws -> String {
    try await wait(name) { words in
      guard let word = words.dropFirst(4).first(where: { $0.contains("/") }) else { return false }
      let counts = word.split(separator: "/").compactMap { Int($0) }
      guard counts.count == 2 else { return false }
      switch until {
      case "n == of": return counts[0] == counts[1]
      case "n < of": return counts[0] < counts[1]
      case "n >= 30": return counts[0] >= 30
      default: throw CheckFailure("unknown condition '\(until)'")
      }
    }
  }

  /// Looks as often as a script would.
  private func wait(
    _ name: String, until isSo: ([Substring]) throws -> Bool
  ) async throws -> String {
    for _ in 0..<10_000 {
      await loop.sleep(for: .milliseconds(10))
      let status = try await status(name)
      if try isSo(status.split(separator: " ")) { return status }
    }
    throw CheckFailure("'\(name)' doesn't come to its end: \(try await status(name))")
  }
}
