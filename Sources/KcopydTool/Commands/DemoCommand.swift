import ArgumentParser
import BlockIO
import Foundation
import Kcopyd

struct DemoCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract: "Make an image of 256 MiB, copy it to three destinations, compare, clean up.")

  @OptionGroup var options: WritingOptions

  private static let size: UInt64 = 256 << 20

  func run() async throws {
    let interruption = Interruption()
    let folder = try makeFolder()
    // Also when it is ended at once.
    interruption.cleanUp { try? FileManager.default.removeItem(atPath: folder) }
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let engine = try await options.engine.makeEngine()
    let image = "\(folder)/image"
    Output.say("making an image of \(Format.bytes(Self.size)) in \(folder)")
    try makeImage(image)
    let source = try await Source(image, from: .zero, count: nil, options: options, on: engine)
    let destinations = try await Destinations(
      ["a", "b", "c"].map { "\(folder)/copy-\($0)" }, of: source, at: .zero, options: options,
      on: engine)
    Explanation(engine: engine, source: source, destinations: destinations.devices).show()
    let regions = destinations.devices.map { IORegion($0, count: source.region.count) }
    let transfer = Transfer(
      engine: engine, devices: destinations.devices, byteCount: source.byteCount,
      options: options)
    let report = try await transfer.run("copying", interruption: interruption) {
      (progress, notify) throws(KcopydError) in
      try engine.client.copy(
        from: source.region, to: regions, options: options.copyOptions, progress: progress,
        notify: notify)
    }
    try show(report, verb: "copied", options)
    for region in regions {
      let comparison = try await engine.client.compare(source.region, region)
      guard comparison.isEqual else {
        Output.complain("'\(region.device.name)' differs from the image")
        throw Ended(status: 1)
      }
      Output.say("compared '\(region.device.name)': the same")
    }
    Output.say("removed \(folder)")
  }

  private func makeFolder() throws -> String {
    let folder = FileManager.default.temporaryDirectory
      .appendingPathComponent("kcopyd-demo-\(UUID().uuidString.prefix(8))")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
    return folder.path
  }

  /// Data that no disk compresses: every word another number.
  private func makeImage(_ path: String) throws {
    guard FileManager.default.createFile(atPath: path, contents: nil),
      let file = FileHandle(forWritingAtPath: path)
    else { throw Refusal("cannot create '\(path)'") }
    var generator = SystemRandomNumberGenerator()
    let words = (0..<(1 << 17)).map { _ in generator.next() as UInt64 }
    for block in 0..<(Self.size >> 20) {
      let key = block &* 0x9E37_79B9_7F4A_7C15
      let data = words.map { $0 ^ key }.withUnsafeBytes { Data($0) }
      try file.write(contentsOf: data)
    }
    try file.close()
  }
}
