import BlockIO
import BlockIOTesting

/// A disk between the engine and a simulated one that does other things than it is told.
final class MeddlingDisk: BlockDevice {
  enum Habit: Sendable {
    /// Writes one sector further up than it is told.
    case writesBeside
    /// Flushes after each write.
    case flushes
    /// Makes each write durable by itself.
    case writesDurably
    /// Never says that a write is done.
    case neverAnswers
    /// Writes everything a second time.
    case writesTwice
  }

  private let disk: SimulatedDisk
  private let habit: Habit

  init(_ disk: SimulatedDisk, _ habit: Habit) {
    self.disk = disk
    self.habit = habit
  }

  var name: String { disk.name }
  var sectorCount: Sector { disk.sectorCount }
  var limits: DeviceLimits { disk.limits }

  func read(_ sectors: Range<Sector>, into buffer: IOBuffer) async throws(IOFailure) {
    try await disk.read(sectors, into: buffer)
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    switch habit {
    case .writesBeside:
      let isRoom = sectors.upperBound < sectorCount
      try await disk.write(
        isRoom ? sectors.shifted(by: 1) : sectors, from: buffer, options: options)
    case .flushes:
      try await disk.write(sectors, from: buffer, options: options)
      try await disk.flush()
    case .writesDurably:
      try await disk.write(sectors, from: buffer, options: .durable)
    case .neverAnswers:
      await withUnsafeContinuation { (_: UnsafeContinuation<Void, Never>) in }
    case .writesTwice:
      try await disk.write(sectors, from: buffer, options: options)
      try await disk.write(sectors, from: buffer, options: options)
    }
  }

  func writeZeroes(_ sectors: Range<Sector>, mayUnmap: Bool) async throws(IOFailure) {
    try await disk.writeZeroes(sectors, mayUnmap: mayUnmap)
  }

  func flush() async throws(IOFailure) { try await disk.flush() }
}
