// @unchecked Sendable: `loop` is set once, before anyone else knows of the object.

/// A loop as the executor of its actors.
///
/// An object of its own, so that the loop knows of what it is to run whether it belongs to an actor.
/// A part of a task that doesn't, run as if it did, would go through the queue once more at each call
/// of a function that is on no actor, and at each return from one.
final class LoopIsolation: SerialExecutor, @unchecked Sendable {
  // Who has work for an actor of the loop has the actor, that has the loop, and this is a part of it.
  private unowned(unsafe) var loop: IOLoop?

  /// Makes it a part of `loop`; once, when that is made.
  func join(_ loop: IOLoop) { self.loop = loop }

  func enqueue(_ job: consuming ExecutorJob) {
    guard let loop else { preconditionFailure("work for a loop that isn't made yet") }
    loop.enqueue(job, isIsolated: true)
  }

  func checkIsolated() { loop?.preconditionIsCurrent() }

  func isIsolatingCurrentContext() -> Bool? { loop?.isCurrent }
}
