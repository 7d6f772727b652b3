import ArgumentParser
import BlockIO
import Kcopyd
import Snapshots

struct SnapshotExportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export",
    abstract: "Copy what a snapshot shows to one or more files or disks.",
    discussion: """
      Reads the origin with the changes of the store over it; neither of the two is written. \
      Destinations are treated as by 'kcopyd copy'.
      """)

  @Argument(help: ArgumentHelp("The origin: a file or block device.", valueName: "origin"))
  var origin: String

  @Argument(help: ArgumentHelp("The COW device.", valueName: "cow"))
  var cow: String

  @Argument(help: ArgumentHelp("Files or block devices to write, up to 64.", valueName: "dest"))
  var destinations: [String] = []

  @OptionGroup var options: WritingOptions

  func run() async throws {
    let interruption = Interruption()
    let engine = try await options.engine.makeEngine(to: destinations)
    let files = SnapshotFiles(
      loop: engine.loop, force: options.force, direct: options.engine.direct)
    try files.refuseSame(origin: origin, cow: cow)
    let origin = try files.openForReading(origin)
    let cow = try files.openForReading(cow)
    let snapshot = try await openSnapshot(origin, cow, engine.loop)
    let source = try Source(snapshot, of: [origin, cow], from: .zero, count: nil)
    let report = try await copyAll(
      source, to: destinations, at: .zero, ContentRequest(), engine, options, "exporting",
      interruption)
    try show(report, verb: "exported", options)
  }

  private func openSnapshot(
    _ origin: FileDevice, _ cow: FileDevice, _ loop: IOLoop
  ) async throws(Refusal) -> SnapshotDevice {
    do throws(SnapshotError) {
      let snapshot = try await Origin(origin, on: loop).addSnapshot(cow: cow, mustExist: true)
      if case .invalid(let reason) = await snapshot.status.condition {
        throw SnapshotError.state("'\(cow.name)': the snapshot is lost: \(reason)")
      }
      return snapshot
    } catch {
      throw Refusal(error.description)
    }
  }
}
