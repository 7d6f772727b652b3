import BlockIO
import Foundation
import Snapshots

/// A store with millions of exceptions: how long it takes to open, and the memory that takes.
struct LargeStore {
  enum Order: String, CaseIterable {
    /// Every exception a run of its own: the worst there is.
    case scattered
    /// One run after the other.
    case consecutive
  }

  let count: Int
  let order: Order
  let folder: String

  private static let perArea = 256
  private static let chunk: UInt64 = 4096

  func run(on loop: IOLoop) async throws -> String {
    let scratch = try Scratch(in: folder)
    let path = "\(scratch.path)/cow"
    try write(path)
    let cow = try FileDevice.open(path, .init(isWritable: false, direct: .off), on: loop)
    let before = Self.residentBytes
    let clock = ContinuousClock()
    let start = clock.now
    let store = try await StoreInspection(of: cow, on: loop)
    let elapsed = start.duration(to: clock.now)
    let grown = Self.peakBytes - before
    precondition(store.exceptionCount == UInt64(count) && store.isSound)
    let seconds = Double(elapsed.components.attoseconds) / 1e18 + Double(elapsed.components.seconds)
    return String(
      format: "%d exceptions, %@: opened in %.2f s, %d runs, table %.1f MiB, peak %.1f MiB more\n",
      count, order.rawValue, seconds, store.runCount,
      Double(store.memoryByteCount) / 1048576, Double(max(0, grown)) / 1048576)
  }

  /// Header and areas alone: the data are holes.
  private func write(_ path: String) throws {
    _ = FileManager.default.createFile(atPath: path, contents: nil)
    guard let file = FileHandle(forWritingAtPath: path) else { throw CocoaError(.fileNoSuchFile) }
    let header: [UInt32] = [0x7041_6E53, 1, 1, 8]
    try file.write(contentsOf: header.withUnsafeBytes { Data($0) })
    // A last area that is empty, if all others are full.
    for area in 0...count / Self.perArea {
      var entries: [UInt64] = []
      for ordinal in min(count, area * Self.perArea)..<min(count, (area + 1) * Self.perArea) {
        entries.append(old(UInt64(ordinal)))
        entries.append(UInt64(ordinal + ordinal / Self.perArea + 2))
      }
      entries += Array(repeating: 0, count: Self.perArea * 2 - entries.count)
      try file.seek(toOffset: (1 + UInt64(area * (Self.perArea + 1))) * Self.chunk)
      try file.write(contentsOf: entries.withUnsafeBytes { Data($0) })
    }
    try file.truncate(atOffset: UInt64(count + count / Self.perArea + 3) * Self.chunk)
    try file.close()
  }

  /// A permutation without neighbours, or none at all.
  private func old(_ ordinal: UInt64) -> UInt64 {
    switch order {
    case .consecutive: ordinal
    case .scattered: ordinal &* 0x9E37_79B1 & 0xFFFF_FFFF
    }
  }

  private static var residentBytes: Int { memory("VmRSS:") }
  private static var peakBytes: Int { memory("VmHWM:") }

  private static func memory(_ field: String) -> Int {
    let text = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
    let line = text.split(separator: "\n").first { $0.hasPrefix(field) }
    return (line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) } ?? 0)
      << 10
  }
}
