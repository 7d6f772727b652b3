import ArgumentParser
import BlockIO
import Daemon
import Foundation
import Kcopyd
import Snapshots

struct SnapshotMergeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge",
    abstract: "Write a snapshot back into its origin.",
    usage: """
      kcopyd snapshot merge NAME [--socket SOCKET] [--detach] [--force]
      kcopyd snapshot merge ORIGIN COW [--json] [--force]
      """,
    discussion: """
      With one argument, a snapshot of the daemon is merged while its origin is in use; the \
      snapshot's device goes at once, and an interruption of the command doesn't stop it. What has \
      a file system of the origin mounted must unmount it first: the past comes back below it. \
      With two, origin and COW device that nobody uses.

      Afterwards the origin holds what the snapshot showed, and the store is empty. Safe to \
      interrupt at any point, also by a loss of power: the same command goes on. From its start to \
      its end the origin alone shows neither of the two; origin and store together show the \
      snapshot.
      """)

  @Argument(
    help: ArgumentHelp(
      "The origin: it is overwritten. Or a snapshot of the daemon.", valueName: "origin"))
  var origin: String

  @Argument(help: ArgumentHelp("The COW device.", valueName: "cow"))
  var store: String?

  @OptionGroup var daemon: DaemonOptions

  @Flag(help: "A snapshot of the daemon: don't wait until it is merged.")
  var detach = false

  @Flag(help: "Print the result as JSON.")
  var json = false

  @Flag(name: .shortAndLong, help: "No progress, no summary; errors only.")
  var quiet = false

  @Flag(
    help: ArgumentHelp(
      "Also use block devices that are mounted or held by another program. A snapshot of the "
        + "daemon: disconnect the clients of its own export."))
  var force = false

  private struct Document: Encodable {
    let ending: String
    let mergedChunks: UInt64
    let remainingChunks: UInt64
    let chunkSectors: UInt64
    let seconds: Double
    let error: String?
  }

  func run() async throws {
    if let store { return try await merge(origin, store) }
    if json { throw Refusal("--json: only with ORIGIN and COW") }
    let answer = try await daemon.follow(
      .snapshotMerge(name: origin, isDetached: detach, force: force), quiet: quiet)
    if let text = answer.text, !quiet { Output.say(text) }
  }

  private func merge(_ originPath: String, _ cowPath: String) async throws {
    if detach || daemon.socket != nil {
      throw Refusal("--detach, --socket: only with the name of a snapshot of the daemon")
    }
    let interruption = Interruption()
    let files = SnapshotFiles(loop: try startLoop(), force: force)
    try files.refuseSame(origin: originPath, cow: cowPath)
    let origin = try files.openForWriting(originPath)
    let cow = try files.openForWriting(cowPath)
    let merge: MergeDevice
    do throws(SnapshotError) {
      merge = try await Origin(origin, on: files.loop).addMerge(cow: cow)
    } catch {
      throw Refusal(error.description)
    }
    if case .invalid(let reason) = await merge.status.condition {
      throw Refusal("'\(cowPath)': the snapshot is lost: \(reason)")
    }
    let before = await merge.status.exceptions
    let clock = ContinuousClock()
    let begin = clock.now
    let display = Task { await show(merge, of: before, since: begin) }
    try await merge.resume()
    // Behind it: what is suspended before would be resumed.
    interruption.handle { Task { await merge.suspend() } }
    await merge.waitUntilEnded()
    display.cancel()
    await display.value
    try report(await merge.status, merge.chunkSize, before, begin.duration(to: clock.now))
  }

  /// Draws progress until cancelled.
  private func show(
    _ merge: MergeDevice, of chunks: UInt64, since begin: ContinuousClock.Instant
  ) async {
    guard !quiet, Output.isTerminal || !json else { return }
    let chunk = merge.chunkSize.sectors.bytes
    var view = ProgressView(
      title: "merging", byteCount: chunks * chunk, names: [origin], makesDurable: false)
    var screen = ProgressScreen(isTerminal: Output.isTerminal)
    let clock = ContinuousClock()
    while (try? await Task.sleep(for: .milliseconds(100))) != nil {
      var moment = CopyProgress.Snapshot(destinations: 1)
      moment.destinations[0].written = (chunks - (await merge.status.exceptions)) * chunk
      view.update(moment, after: begin.duration(to: clock.now), isFlushing: false)
      screen.show(view)
    }
    screen.clear()
  }

  private func report(
    _ status: SnapshotStatus, _ chunkSize: ChunkSize, _ before: UInt64, _ duration: Duration
  ) throws {
    let left = status.exceptions
    let merged = before - left
    var failure: String?
    if case .mergeFailed(let reason) = status.condition { failure = reason }
    if json {
      Output.say(
        try encodeJSON(
          Document(
            ending: failure != nil ? "failed" : left > 0 ? "interrupted" : "merged",
            mergedChunks: merged, remainingChunks: left,
            chunkSectors: chunkSize.sectors.rawValue,
            seconds: Double(duration.nanoseconds) / 1e9, error: failure)))
    }
    let size = Format.bytes(merged * chunkSize.sectors.bytes)
    if let failure {
      Output.complain(
        "the merge stopped after \(merged) of \(before) chunks: \(failure); nothing is lost, the"
          + " same command goes on")
      throw Ended(status: 1)
    }
    guard left == 0 else {
      if !json {
        Output.note(
          "interrupted: \(merged) of \(before) chunks are merged, durable; the same command goes"
            + " on")
      }
      throw Ended(status: 130)
    }
    if !json, !quiet {
      Output.say(
        "merged \(merged) chunks (\(size)) into '\(origin)' in \(Format.duration(duration)),"
          + " durable; '\(store ?? "")' is empty")
    }
  }
}
