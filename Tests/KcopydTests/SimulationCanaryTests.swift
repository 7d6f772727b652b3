import BlockIO
@testable import BlockIOTesting
import SystemPackage
import Testing

@testable import Kcopyd

/// The checks of the simulation find what is planted.
@Suite struct SimulationCanaryTests {
  /// What the first of some seeds that fails has to say.
  private static func firstFailure(_ sabotage: Sabotage) -> String? {
    for seed in UInt64(0)..<200 {
      do {
        try EngineSimulationTests.run(seed, sabotage: sabotage)
      } catch {
        return String(describing: error)
      }
    }
    return nil
  }

  private static func expectFailure(
    _ words: String..., sourceLocation: SourceLocation = #_sourceLocation,
    _ plant: (inout Sabotage) -> Void
  ) {
    var sabotage = Sabotage()
    plant(&sabotage)
    let failure = firstFailure(sabotage) ?? "nothing was found"
    #expect(words.contains { failure.contains($0) }, "\(failure)", sourceLocation: sourceLocation)
  }

  @Test func nothingIsFoundWhereNothingIsPlanted() {
    #expect(Self.firstFailure(.none) == nil)
  }

  // MARK: Disks

  @Test func aDiskThatLosesWrites() {
    Self.expectFailure("contents of disk") { sabotage in
      sabotage.faults = { plan in
        var plan = plan
        plan.lie(.lostWrite, 50..<56)
        return plan
      }
    }
  }

  @Test func aDiskThatReadsSomethingElse() {
    Self.expectFailure("contents of disk") { sabotage in
      sabotage.faults = { plan in
        var plan = plan
        plan.lie(.corruptRead, 20..<26)
        return plan
      }
    }
  }

  @Test func aDiskThatWritesBeside() {
    Self.expectFailure("contents of disk") { $0.device = { MeddlingDisk($0, .writesBeside) } }
  }

  @Test func flushesAndDurableWrites() {
    Self.expectFailure("isn't to do this: flush") { $0.device = { MeddlingDisk($0, .flushes) } }
    Self.expectFailure("isn't to do this") {
      $0.device = { MeddlingDisk($0, .writesDurably) }
    }
  }

  @Test func aSecondWrite() {
    Self.expectFailure("written twice") { $0.device = { MeddlingDisk($0, .writesTwice) } }
  }

  @Test func waitingForWhatNeverComes() {
    Self.expectFailure("stalled") { $0.device = { MeddlingDisk($0, .neverAnswers) } }
  }

  // MARK: Notifications

  @Test func aSecondNotification() {
    Self.expectFailure("was notified 2 times") { $0.notifications = 2 }
  }

  @Test func noNotification() {
    Self.expectFailure("was notified 0 times") { $0.notifications = 0 }
  }

  // MARK: Results

  enum Lie: CaseIterable, Sendable {
    case nothingIsMissing, somethingIsMissing, everythingCouldBeRead, somethingCouldNotBeRead
    case everythingCouldBeWritten, somethingCouldNotBeWritten, wasAbandoned, wasNotAbandoned
    case anotherEnding, destinationsAreMixedUp

    func tell(_ truth: CopyResult) -> CopyResult {
      var ending = truth.ending
      var readFailures = truth.readFailures
      var destinations = truth.destinations
      let failure = IOFailure(.read, "d0", 0..<1, errno: .ioError)
      guard let last = destinations.indices.last, truth.count > .zero else { return truth }
      switch self {
      case .nothingIsMissing: destinations[last].missing = RangeSet()
      case .somethingIsMissing: destinations[last].missing.insert(0..<1)
      case .everythingCouldBeRead: readFailures = FailureLog()
      case .somethingCouldNotBeRead: readFailures.add(failure, at: 0..<1)
      case .everythingCouldBeWritten: destinations[last].failures = FailureLog()
      case .somethingCouldNotBeWritten: destinations[last].failures.add(failure, at: 0..<1)
      case .wasAbandoned: destinations[last].wasAbandoned = true
      case .wasNotAbandoned: for index in 0...last { destinations[index].wasAbandoned = false }
      case .anotherEnding: ending = truth.ending == .finished ? .cancelled : .finished
      case .destinationsAreMixedUp: destinations.reverse()
      }
      return CopyResult(
        count: truth.count, ending: ending, readFailures: readFailures, destinations: destinations)
    }
  }

  @Test(arguments: Lie.allCases)
  func aResultThatLies(_ lie: Lie) {
    Self.expectFailure("lane") { $0.result = { lie.tell($0) } }
  }
}
