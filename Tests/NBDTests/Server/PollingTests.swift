import BlockIO
import Testing

@testable import NBD

/// Who is worth looking for.
struct PollingTests {
  private func isWorthwhile(_ polling: inout Polling, after gap: Duration) -> Bool {
    let start = LoopInstant(nanoseconds: 1_000_000)
    polling.noteAnswer(at: start)
    polling.noteArrival(at: start.advanced(by: gap))
    return polling.isWorthwhile
  }

  @Test func aClientThatCameSoonIsLookedFor() {
    var polling = Polling(window: .microseconds(50))
    #expect(!polling.isWorthwhile)
    #expect(isWorthwhile(&polling, after: .microseconds(99)))
    #expect(!isWorthwhile(&polling, after: .microseconds(100)))
    #expect(!isWorthwhile(&polling, after: .seconds(1)))
    #expect(isWorthwhile(&polling, after: .zero))
  }

  /// One that thinks for a little longer than the window costs a look every second time at most.
  @Test func afterALookInVainComesNone() {
    var polling = Polling(window: .microseconds(50))
    #expect(isWorthwhile(&polling, after: .microseconds(80)))
    polling.noteVain()
    #expect(!isWorthwhile(&polling, after: .microseconds(80)))
    #expect(isWorthwhile(&polling, after: .microseconds(80)))
  }

  /// Parts of one request tell nothing of how soon the next one comes.
  @Test func whatComesInPartsCountsOnce() {
    var polling = Polling(window: .microseconds(50))
    let start = LoopInstant(nanoseconds: 1_000_000)
    polling.noteAnswer(at: start)
    polling.noteArrival(at: start.advanced(by: .milliseconds(1)))
    polling.noteArrival(at: start.advanced(by: .milliseconds(1)))
    #expect(!polling.isWorthwhile)
  }

  @Test func withoutAWindowNobodyIs() {
    var polling = Polling(window: .zero)
    #expect(!isWorthwhile(&polling, after: .zero))
  }
}
