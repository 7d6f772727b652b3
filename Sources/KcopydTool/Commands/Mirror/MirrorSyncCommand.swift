import ArgumentParser
import BlockIO
import Foundation
import Kcopyd
import Mirrors

struct MirrorSyncCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sync",
    abstract: "Bring all legs up to date with the first one, by the log.",
    discussion: """
      Regions that the log says may differ are copied from the first leg – or the one that the \
      sidecar names – to the others. The log is kept on the way: interrupted at any point, also by \
      a loss of power, the same command goes on.
      """)

  @OptionGroup var options: MirrorOptions

  @Flag(help: "Copy everything, whatever the log says.")
  var all = false

  @Option(help: "Part of the time in which copying may be under way, in percent.")
  var throttle: Int = 100

  @Option(help: "Most bytes per second to copy, such as 100MiB. (default: no limit)")
  var rate: String?

  func run() async throws {
    let interruption = Interruption()
    guard options.log != nil else { throw Refusal("--log: a log is needed") }
    guard (0...100).contains(throttle) else { throw Refusal("--throttle: must be 0 to 100") }
    let rate = try rate.map { text throws(Refusal) in
      try Size.bytes(
        text.hasSuffix("/s") ? String(text.dropLast(2)) : text, plain: 1, option: "--rate")
    }
    if rate == 0 { throw Refusal("--rate: must be more than 0") }
    let loop = try startLoop()
    let log = try options.openLog(isWritable: true, on: loop)
    let legs = try options.open(isWritable: true, on: loop)
    let sidecar = try await options.openSidecar(isWritable: true, of: legs, on: loop)
    let mirror = try options.mirror(
      legs, log: log, sidecar: sidecar?.device, sync: all ? .sync : nil, on: loop)
    mirror.throttle.percent = throttle
    mirror.throttle.bytesPerSecond = rate
    // Of what is no log of this mirror the mirror would make one, and copy everything.
    if let log { _ = try await options.readLog(log, of: legs) }
    let run = MirrorRun(mirror: mirror, title: "syncing", quiet: options.quiet || options.json)
    let outcome = try await run.recover(interruption)
    try report(outcome, options.json, options.quiet) {
      "\(legs.count) legs are in sync"
    }
  }
}

/// Recovery of a mirror as a command runs it: with progress, ended by an interruption.
struct MirrorRun {
  let mirror: MirrorDevice
  let title: String
  let quiet: Bool

  struct Outcome {
    let status: MirrorStatus
    let copied: UInt64
    let duration: Duration
    let wasInterrupted: Bool

    /// Whether all legs are the same, durably, and the log says so.
    var isInSync: Bool {
      status.regionsInSync == status.regionCount && status.log.letter == "A"
    }
  }

  /// Resumes the mirror, waits until all is copied that can be, and suspends it: all durable then.
  func recover(_ interruption: Interruption) async throws(Refusal) -> Outcome {
    let clock = ContinuousClock()
    let begin = clock.now
    try await resume()
    // Behind it: what is suspended before would be resumed.
    interruption.handle { Task { await mirror.suspend() } }
    let before = await mirror.status.regionsInSync
    let display = Task { await show(since: begin, from: before) }
    await mirror.waitForRecovery()
    await mirror.suspend()
    // The end of it included: the last flushes can fail, too.
    let status = await mirror.status
    display.cancel()
    await display.value
    return Outcome(
      status: status, copied: status.regionsInSync - min(before, status.regionsInSync),
      duration: begin.duration(to: clock.now), wasInterrupted: interruption.hasCome)
  }

  private func resume() async throws(Refusal) {
    do throws(MirrorError) {
      try await mirror.resume()
    } catch {
      throw Refusal(error.description)
    }
  }

  private func show(since begin: ContinuousClock.Instant, from before: UInt64) async {
    guard !quiet else { return }
    let status = await mirror.status
    let region = mirror.sectorCount.bytes / max(1, status.regionCount)
    var view = ProgressView(
      title: title, byteCount: (status.regionCount - before) * region, names: [title],
      makesDurable: false)
    var screen = ProgressScreen(isTerminal: Output.isTerminal)
    let clock = ContinuousClock()
    while (try? await Task.sleep(for: .milliseconds(100))) != nil {
      var moment = CopyProgress.Snapshot(destinations: 1)
      let now = await mirror.status.regionsInSync
      moment.destinations[0].written = (now - min(now, before)) * region
      view.update(moment, after: begin.duration(to: clock.now), isFlushing: false)
      screen.show(view)
    }
    screen.clear()
  }
}

private struct RecoveryDocument: Encodable {
  struct Leg: Encodable {
    let path: String
    let status: String
  }

  let ending: String
  let regions: UInt64
  let inSync: UInt64
  let copied: UInt64
  let seconds: Double
  let legs: [Leg]
  let log: String
}

/// Prints what a recovery came to and ends with the status it makes.
func report(
  _ outcome: MirrorRun.Outcome, _ json: Bool, _ quiet: Bool, success: () -> String
) throws {
  let status = outcome.status
  if json {
    Output.say(
      try encodeJSON(
        RecoveryDocument(
          ending: outcome.isInSync
            ? "in sync" : outcome.wasInterrupted ? "interrupted" : "errors",
          regions: status.regionCount, inSync: status.regionsInSync, copied: outcome.copied,
          seconds: Double(outcome.duration.nanoseconds) / 1e9,
          legs: status.legs.map { .init(path: $0.name, status: String($0.letter)) },
          log: String(status.log.letter))))
  }
  guard outcome.isInSync else {
    let place = "\(status.regionsInSync) of \(status.regionCount) regions are in sync"
    if outcome.wasInterrupted {
      if !json { Output.note("interrupted: \(place), durable; the same command goes on") }
      throw Ended(status: 130)
    }
    var failed = status.legs.filter { $0.letter != "A" }.map { "'\($0.name)' (\($0.letter))" }
    if status.log.letter != "A" { failed.append("the log (\(status.log.letter))") }
    let reasons = failed.isEmpty ? "" : "; failed: \(failed.joined(separator: ", "))"
    Output.complain("\(place)\(reasons) – F flush, D write or log, S copy, R read")
    throw Ended(status: 1)
  }
  if !json, !quiet {
    Output.say(
      "\(success()): \(outcome.copied) of \(status.regionCount) regions copied in"
        + " \(Format.duration(outcome.duration)), durable")
  }
}
