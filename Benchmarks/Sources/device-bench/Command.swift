import ArgumentParser
import BlockIO
import Foundation

@main
struct Command: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "device-bench",
    abstract: "What snapshots and mirrors cost, within one process, on files.",
    discussion: "Each round does every case in turn; figures are medians.",
    subcommands: [SnapshotsCommand.self, MirrorsCommand.self])
}

/// What both are given.
struct Options: ParsableArguments {
  @Option(help: "A folder on a disk.")
  var disk = "/var/tmp"

  @Option(help: "A folder on a tmpfs.")
  var tmpfs = "/dev/shm"

  @Option(help: "Measured rounds.")
  var runs = 7

  @Option(help: "Only places whose name contains this.")
  var only: String?

  var places: [Place] { allPlaces.filter { only == nil || $0.name.contains(only ?? "") } }

  private var allPlaces: [Place] {
    [
      Place(name: "tmpfs", folder: tmpfs, direct: .off),
      Place(name: "disk, page cache", folder: disk, direct: .off),
      Place(name: "disk, O_DIRECT", folder: disk, direct: .on),
      Place(name: "fixed latency", folder: tmpfs, direct: nil),
      Place(name: "one at a time", folder: tmpfs, direct: nil, oneAtATime: true),
    ]
  }
}

struct SnapshotsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "snapshots",
    abstract: "Writes while there are snapshots, and opening a large store.",
    discussion: """
      'First' writes touch a chunk that has to be copied to all snapshots, 'second' writes the same \
      chunks again, 'bare' is the device without any of this.
      """)

  @OptionGroup var options: Options

  @Option(help: "Chunks that are written in a case.")
  var chunks = 512

  @Option(help: "Sectors of a chunk.")
  var chunkSectors: UInt64 = 32

  @Option(help: "Exceptions of the large store; 0 leaves it out.")
  var exceptions = 10_000_000

  func run() async throws {
    let loop = try IOLoop.start()
    print("chunks of \(chunkSectors / 2) KiB, writes of 4 KiB, medians of \(options.runs) rounds\n")
    for place in options.places {
      for depth in [1, 32] {
        let bench = WriteBench(
          place: place, depth: depth, chunks: chunks, chunkSectors: Sector(chunkSectors),
          loop: loop)
        do {
          print(try await bench.run(rounds: options.runs).text)
        } catch {
          print("\(place.name): \(error)\n")
        }
      }
    }
    guard exceptions > 0 else { return }
    for order in LargeStore.Order.allCases {
      let store = LargeStore(count: exceptions, order: order, folder: options.disk)
      print(try await store.run(on: loop))
    }
  }
}

struct MirrorsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mirrors", abstract: "A mirror of two legs against one leg and a plain copy.")

  @OptionGroup var options: Options

  @Option(help: "MiB of a leg.")
  var size: UInt64 = 1024

  func run() async throws {
    let loop = try IOLoop.start()
    let same = options.places.map { [$0, $0] }
    // Two devices: what goes to one doesn't slow the other down.
    let memory = Place(name: "tmpfs", folder: options.tmpfs, direct: .off)
    let mixed = options.places.filter { $0.folder == options.disk }.map { [memory, $0] }
    for places in same + mixed {
      let bench = MirrorBench(places: places, size: Sector(size << 11), loop: loop)
      do {
        print(try await bench.run(rounds: options.runs))
      } catch {
        print("\(places.map(\.name).joined(separator: " + ")): \(error)\n")
      }
    }
  }
}

/// Where files are made, and how they are opened.
struct Place {
  let name: String
  let folder: String
  /// nil: no file, but memory with a fixed latency.
  let direct: DirectChoice?
  /// Whether that does one request after the other.
  var oneAtATime = false

  /// A file there, or what stands for one.
  func device(
    _ name: String, _ sectors: Sector, in scratch: Scratch, _ loop: IOLoop
  ) throws -> any BlockDevice {
    guard let direct else { return SlowMemory(name, sectors, oneAtATime: oneAtATime, on: loop) }
    return try scratch.file(name, sectors, direct, loop)
  }
}

/// A folder of its own, removed with what is in it.
final class Scratch {
  let path: String

  init(in folder: String) throws {
    path =
      "\(folder)/device-bench.\(ProcessInfo.processInfo.processIdentifier)."
      + "\(UInt32.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// A file whose blocks have all been written, so that none is allocated while it is measured.
  func file(
    _ name: String, _ sectors: Sector, _ direct: DirectChoice, _ loop: IOLoop
  ) throws -> FileDevice {
    let path = "\(self.path)/\(name)"
    let block = Data(count: 1 << 20)
    _ = FileManager.default.createFile(atPath: path, contents: nil)
    guard let file = FileHandle(forWritingAtPath: path) else {
      throw CocoaError(.fileNoSuchFile)
    }
    var rest = Int(sectors.bytes)
    while rest > 0 {
      try file.write(contentsOf: block.prefix(rest))
      rest -= min(rest, block.count)
    }
    try file.synchronize()
    try file.close()
    return try FileDevice.open(path, .init(isWritable: true, direct: direct), on: loop)
  }
}

/// The middle of some measured values.
func middle(of values: [Double]) -> Double {
  let sorted = values.sorted()
  return sorted.isEmpty ? .nan : sorted[sorted.count / 2]
}
