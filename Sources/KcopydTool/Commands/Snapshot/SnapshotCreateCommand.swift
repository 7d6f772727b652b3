import ArgumentParser
import BlockIO
import Foundation
import Snapshots

struct SnapshotCreateCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "create",
    abstract: "Make a new, empty store for snapshots of an origin.",
    discussion: """
      The store is an empty snapshot: it shows the origin as it is, until one of the two is \
      written through the device-mapper. A COW file that doesn't exist is made, sparse and, unless \
      --size says otherwise, so large that it can't run full.
      """)

  @Argument(
    help: ArgumentHelp("The device to be snapshotted; only looked at.", valueName: "origin"))
  var origin: String

  @Argument(help: ArgumentHelp("Where the store is made.", valueName: "cow"))
  var cow: String

  @Option(help: "Size of a chunk: a power of two from 4KiB to 1GiB. (default: 16KiB)")
  var chunk: String?

  @Option(help: "Size of a new COW file. (default: enough for every chunk of the origin)")
  var size: String?

  @Flag(help: "Overwrite a store, or whatever else the COW device holds.")
  var overwrite = false

  @Flag(help: "Also use a COW device that is mounted or held by another program.")
  var force = false

  @Flag(name: .shortAndLong, help: "No summary.")
  var quiet = false

  func run() async throws {
    let chunkSize = try chunkSize()
    let files = SnapshotFiles(loop: try startLoop(), force: force)
    try files.refuseSame(origin: origin, cow: cow)
    let origin = try files.openForReading(origin)
    guard origin.sectorCount > .zero else { throw Refusal("'\(self.origin)' is empty") }
    let isNew = !FileManager.default.fileExists(atPath: cow)
    if !isNew, size != nil {
      throw Refusal("--size: '\(cow)' exists; its size isn't changed")
    }
    let device = isNew ? try make(chunkSize, origin, files) : try files.openForWriting(cow)
    do throws(SnapshotError) {
      let made = try await SnapshotStore.create(
        on: device, for: origin, chunkSize: chunkSize, overwrites: overwrite, on: files.loop)
      if !quiet {
        Output.say(
          "made a store with chunks of \(Format.bytes(made.sectors.bytes)) in '\(cow)'"
            + " (\(Format.bytes(device.byteCount))), durable")
      }
    } catch {
      if isNew { unlink(cow) }
      throw Refusal(explain(error))
    }
  }

  private func chunkSize() throws(Refusal) -> ChunkSize {
    let sectors = try chunk.map { text throws(Refusal) in
      try Sector(text, option: "--chunk")
    }
    guard let size = ChunkSize(sectors ?? 32), size.sectors >= ChunkSize.persistentMinimum else {
      throw Refusal(
        "--chunk: '\(chunk ?? "")' must be a power of two from 4KiB (8 sectors) to 1GiB")
    }
    return size
  }

  private func make(
    _ chunkSize: ChunkSize, _ origin: FileDevice, _ files: SnapshotFiles
  ) throws(Refusal) -> FileDevice {
    let wanted = try size.map { text throws(Refusal) in try Sector(text, option: "--size") }
    guard let size = wanted ?? SnapshotStore.sizeForAll(of: origin, chunkSize: chunkSize) else {
      throw Refusal("a store for all of '\(origin.name)' would be too large; give --size")
    }
    guard size >= chunkSize.sectors * 2 else {
      throw Refusal(
        "--size: \(size.rawValue) sectors are too few; header and first area take"
          + " \(chunkSize.sectors.rawValue * 2)")
    }
    do throws(IOFailure) {
      return try FileDevice.create(cow, byteCount: size.bytes, on: files.loop)
    } catch {
      throw Refusal("cannot create '\(cow)': \(error.reason)")
    }
  }

  private func explain(_ error: SnapshotError) -> String {
    switch error {
    case .state: "\(error); --overwrite ends it"
    case .damaged(let damage):
      if case .foreignMagic = damage.reason {
        "'\(cow)' holds something else: its first four bytes aren't zero; --overwrite ends it"
      } else {
        error.description
      }
    default: error.description
    }
  }
}
