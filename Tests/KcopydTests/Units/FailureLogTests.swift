import BlockIO
import BlockIOTesting
import SystemPackage
import Testing

@testable import Kcopyd

/// Where and why something failed.
@Suite struct FailureLogTests {
  private func failure(
    _ sectors: Range<Sector>, _ errno: Errno = .ioError, detail: String? = nil
  ) -> IOFailure {
    IOFailure(.read, "disk", sectors, errno: errno, detail: detail)
  }

  @Test func nothingFailed() {
    var log = FailureLog()
    log.add(failure(0..<8), at: 5..<5)
    #expect(log.isEmpty && log.entries.isEmpty && log.omitted == 0)
  }

  @Test func neighboursOfOneKindAreOneEntry() {
    var log = FailureLog()
    log.add(failure(100..<104), at: 0..<4)
    log.add(failure(104..<105), at: 4..<5)
    log.add(failure(110..<112), at: 10..<12)
    #expect(log.sectors == .of(0..<5, 10..<12))
    #expect(log.entries.map(\.sectors) == [0..<5, 10..<12])
    #expect(log.entries.map(\.failure.sectors) == [100..<105, 110..<112])
  }

  @Test func otherReasonsAreOtherEntries() {
    var log = FailureLog()
    log.add(failure(0..<4), at: 0..<4)
    log.add(failure(4..<8, .noSpace), at: 4..<8)
    log.add(failure(8..<9, .noSpace, detail: "full"), at: 8..<9)
    #expect(log.sectors == .of(0..<9))
    #expect(log.entries.map(\.failure.errno) == [.ioError, .noSpace, .noSpace])
  }

  @Test func theSameSectorTwiceIsOneSector() {
    var log = FailureLog()
    log.add(failure(0..<4), at: 0..<4)
    log.add(failure(2..<6), at: 2..<6)
    #expect(log.sectors.sectorCount == 6)
  }

  /// All places are kept, of the reasons the first ones.
  @Test func reasonsAreLimitedPlacesAreNot() {
    var log = FailureLog()
    for number in 0..<300 as Range<UInt64> {
      let sectors = Sector(2 * number)..<Sector(2 * number + 1)
      log.add(failure(sectors), at: sectors)
    }
    #expect(log.sectors.sectorCount == 300)
    #expect(log.entries.count == FailureLog.maximumReasons && log.omitted == 44)
    // One that goes on where the last kept one ends is still part of it.
    log.add(failure(511..<512), at: 511..<512)
    #expect(log.omitted == 44 && log.entries.last?.sectors == 510..<512)
  }
}

/// What a result says in the kernel's terms.
@Suite struct CopyResultTests {
  private let failure = IOFailure(.write, "disk", 0..<1, errno: .ioError)

  /// A result of two destinations, or as many as asked for, with changes.
  private func result(
    _ count: Int = 2, readFailures: FailureLog = FailureLog(),
    _ change: (inout [CopyResult.Destination]) -> Void = { _ in }
  ) -> CopyResult {
    var destinations = Array(repeating: CopyResult.Destination(), count: count)
    change(&destinations)
    return CopyResult(
      count: 100, ending: .finished, readFailures: readFailures, destinations: destinations)
  }

  @Test func nothingFailed() {
    for result in [result(), CopyResult(count: 100, destinationCount: 2)] {
      #expect(result.isComplete && !result.readError && result.writeErrors == 0)
      #expect(result.ending == .finished && result.readFailures.isEmpty)
      #expect(result.destinations.count == 2 && result.destinationCount == 2)
      #expect(result.destinations.allSatisfy { $0.missing.isEmpty && $0.failures.isEmpty })
      #expect(result.written(1) == .of(0..<100))
    }
  }

  @Test func bitsAreDestinations() {
    let result = result(64) { destinations in
      for index in [0, 5, 63] { destinations[index].failures.add(failure, at: 0..<1) }
    }
    #expect(result.writeErrors == 0x8000_0000_0000_0021)
    #expect(!result.isComplete && !result.readError)
  }

  @Test func abandonedWritesAreAllOnes() {
    let result = result { destinations in
      destinations[1].missing.insert(50..<100)
      destinations[1].wasAbandoned = true
    }
    #expect(result.writeErrors == .max)
  }

  @Test func readErrors() {
    var failures = FailureLog()
    failures.add(failure, at: 3..<4)
    let result = result(readFailures: failures)
    #expect(result.readError && result.writeErrors == 0 && !result.isComplete)
    #expect(result.readFailures.sectors == .of(3..<4))
  }

  @Test func whatIsNotMissingIsWritten() {
    let result = result { $0[1].missing.insert(10..<20) }
    #expect(result.written(0) == .of(0..<100))
    #expect(result.written(1) == .of(0..<10, 20..<100))
    #expect(!result.isComplete && result.writeErrors == 0)
  }
}
