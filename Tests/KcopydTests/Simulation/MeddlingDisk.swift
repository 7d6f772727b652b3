import BlockIO
import BlockIOTesting

/// A disk between the engine and a simulated one that does other things than it is told.
final class MeddlingDisk: ForwardingDevice {
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

  let underlying: any BlockDevice
  private let habit: Habit

  init(_ disk: SimulatedDisk, _ habit: Habit) {
    underlying = disk
    self.habit = habit
  }

  func write(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    switch habit {
    case .writesBeside:
      let isRoom = sectors.upperBound < sectorCount
      try await underlying.write(
        isRoom ? sectors.shifted(by: 1) : sectors, from: buffer, options: options)
    case .flushes:
      try await underlying.write(sectors, from: buffer, options: options)
      try await underlying.flush()
    case .writesDurably:
      try await underlying.write(sectors, from: buffer, options: .durable)
    case .neverAnswers:
      await withUnsafeContinuation { (_: UnsafeContinuation<Void, Never>) in }
    case .writesTwice:
      try await underlying.write(sectors, from: buffer, options: options)
      try await underlying.write(sectors, from: buffer, options: options)
    }
  }
}
