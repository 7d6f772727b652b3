import BlockIO
import Testing

@testable import Kcopyd

/// The accounting of the throttle, step by step.
@Suite struct DutyCycleTests {
  private func at(_ milliseconds: Int64) -> LoopInstant {
    LoopInstant(nanoseconds: milliseconds * 1_000_000)
  }

  @Test func timeWithIOOutstandingIsBusy() {
    var duty = DutyCycle(percent: 50)
    // Nothing has happened before the first start.
    #expect(duty.mustWait(now: at(5000)) == false)
    #expect(duty.busy == 0 && duty.total == 0)
    duty.outstanding = 1
    duty.end(now: at(5010))
    #expect(duty.outstanding == 0 && duty.busy == 10 && duty.total == 10)
    // 10 − 50 · 10 / 100 = 5.
    #expect(duty.mustWait(now: at(5010)) == true)
    // 10 − 50 · 19 / 100 = 1, then 10 − 50 · 20 / 100 = 0.
    #expect(duty.mustWait(now: at(5019)) == true)
    #expect(duty.mustWait(now: at(5020)) == false)
    #expect(duty.busy == 10 && duty.total == 20)
  }

  @Test func severalOutstandingCountOnce() {
    var duty = DutyCycle(percent: 50)
    _ = duty.mustWait(now: at(0))
    duty.outstanding = 2
    // Only the last one to end accounts.
    duty.end(now: at(30))
    #expect(duty.busy == 0 && duty.total == 0 && duty.outstanding == 1)
    duty.end(now: at(40))
    #expect(duty.busy == 40 && duty.total == 40)
    // Idle from here on.
    _ = duty.mustWait(now: at(100))
    #expect(duty.busy == 40 && duty.total == 100)
  }

  @Test func aStartAccountsTheTimeUpToIt() {
    var duty = DutyCycle(percent: 80)
    _ = duty.mustWait(now: at(0))
    duty.outstanding = 1
    #expect(duty.mustWait(now: at(100)) == true)
    #expect(duty.busy == 100 && duty.total == 100)
  }

  @Test func percentagesAreRoundedDown() {
    var duty = DutyCycle(percent: 33)
    _ = duty.mustWait(now: at(0))
    duty.outstanding = 1
    duty.end(now: at(3))
    // 3 − 33 · 9 / 100 = 3 − 2, then 3 − 33 · 10 / 100 = 3 − 3.
    #expect(duty.mustWait(now: at(9)) == true)
    #expect(duty.mustWait(now: at(10)) == false)
  }

  @Test func oldTimesAreShiftedOut() {
    var duty = DutyCycle(percent: 50)
    _ = duty.mustWait(now: at(0))
    duty.outstanding = 1
    duty.end(now: at(600))
    _ = duty.mustWait(now: at(1023))
    #expect(duty.busy == 600 && duty.total == 1023)
    // 1024 / 1024 = 1: one bit.
    _ = duty.mustWait(now: at(1024))
    #expect(duty.busy == 300 && duty.total == 512)
    // 512 + 2600 = 3112, / 1024 = 3: two bits.
    _ = duty.mustWait(now: at(3624))
    #expect(duty.busy == 75 && duty.total == 778)
  }

  @Test func withoutALimitNothingIsAccounted() {
    var duty = DutyCycle(percent: 100)
    #expect(duty.mustWait(now: at(0)) == false)
    duty.outstanding = 1
    duty.end(now: at(500))
    #expect(duty.busy == 0 && duty.total == 0 && duty.outstanding == 0)
    duty.percent = 250
    #expect(duty.mustWait(now: at(600)) == false)
    #expect(duty.total == 0)
  }

  @Test func atNoPercentEveryBusyTickIsTooMuch() {
    var duty = DutyCycle(percent: 0)
    #expect(duty.mustWait(now: at(0)) == false)
    duty.outstanding = 1
    duty.end(now: at(1))
    #expect(duty.mustWait(now: at(1)) == true)
    // Only the shifting makes it forget.
    #expect(duty.mustWait(now: at(1023)) == true)
    #expect(duty.mustWait(now: at(1024)) == false)
  }
}

/// The accounting of bytes per second, step by step.
@Suite struct ByteBudgetTests {
  private func at(_ milliseconds: Int64) -> LoopInstant {
    LoopInstant(nanoseconds: milliseconds * 1_000_000)
  }

  @Test func whatIsSpentMustBePaidBeforeTheNextStart() {
    var budget = ByteBudget(bytesPerSecond: 1000)
    #expect(budget.take(500, now: at(0)) == nil)
    #expect(budget.take(500, now: at(0)) == .milliseconds(500))
    #expect(budget.take(500, now: at(100)) == .milliseconds(400))
    #expect(budget.take(500, now: at(500)) == nil)
    #expect(budget.take(1, now: at(500)) == .milliseconds(500))
  }

  @Test func aTenthOfASecondIsSavedUp() {
    var budget = ByteBudget(bytesPerSecond: 1000)
    #expect(budget.take(1, now: at(0)) == nil)
    // After a minute: 100, and the one that goes below 0.
    #expect(budget.take(100, now: at(60_000)) == nil)
    #expect(budget.take(300, now: at(60_000)) == nil)
    #expect(budget.take(1, now: at(60_000)) == .milliseconds(300))
  }

  @Test func waitsAreNeitherTinyNorHuge() {
    var fast = ByteBudget(bytesPerSecond: 1 << 40)
    #expect(fast.take(1, now: at(0)) == nil)
    #expect(fast.take(1, now: at(0)) == .milliseconds(1))
    var slow = ByteBudget(bytesPerSecond: 0)
    #expect(slow.take(1 << 40, now: at(0)) == nil)
    #expect(slow.take(1, now: at(0)) == .seconds(1))
  }

  @Test func nothingAndNoLimitAreFree() {
    var limited = ByteBudget(bytesPerSecond: 1)
    #expect(limited.take(1000, now: at(0)) == nil)
    #expect(limited.take(0, now: at(0)) == nil)
    var unlimited = ByteBudget(bytesPerSecond: nil)
    for _ in 0..<3 { #expect(unlimited.take(.max, now: at(0)) == nil) }
  }
}
