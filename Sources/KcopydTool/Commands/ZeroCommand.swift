import ArgumentParser
import BlockIO
import Kcopyd

struct ZeroCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "zero",
    abstract: "Fill files or disks, or a part of them, with zeros.",
    discussion: """
      Where every destination can zero ranges by command that is used, otherwise zeros are \
      written. Space stays allocated.
      """)

  @Argument(help: ArgumentHelp("Files or block devices, up to 64.", valueName: "dest"))
  var destinations: [String]

  @Option(help: "First sector to zero. (default: 0)")
  var to: String?

  @Option(help: "How many sectors to zero. (default: up to the end)")
  var count: String?

  @OptionGroup var options: WritingOptions

  func run() async throws {
    let interruption = Interruption()
    let to = try to.map { try Sector($0, option: "--to") } ?? .zero
    let count = try count.map { try Sector($0, option: "--count") }
    if count == .zero { throw Refusal("--count: must be more than 0") }
    guard destinations.count <= KcopydClient.maximumDestinations else {
      throw Refusal(
        "\(destinations.count) destinations; the most is \(KcopydClient.maximumDestinations)")
    }
    let engine = try await options.engine.makeEngine(to: destinations)
    let devices = try await open(on: engine)
    let length = try length(of: devices, from: to, count)
    if options.explain {
      Explanation(engine: engine, source: nil, destinations: devices).show()
    }
    let transfer = Transfer(
      engine: engine, devices: devices,
      // A file's last sector may be a begun one.
      byteCount: devices.map { min($0.byteCount - to.bytes, length.bytes) }.min() ?? 0,
      options: options)
    let report = try await transfer.run("zeroing", interruption: interruption) {
      (progress, notify) throws(KcopydError) in
      try engine.client.zero(
        devices.map { IORegion($0, sector: to, count: length) }, options: options.copyOptions,
        progress: progress, notify: notify)
    }
    try show(report, verb: "zeroed", options)
  }

  private func open(on engine: Engine) async throws(Refusal) -> [any BlockDevice] {
    var devices: [any BlockDevice] = []
    for path in destinations {
      let device = try await openEndpoint(path, writable: true, options: options, on: engine)
      if let other = devices.first(where: { $0.identity == device.identity }) {
        throw Refusal("'\(path)' and '\(other.name)' are the same destination")
      }
      if let other = devices.first(where: { $0.sharesSectors(with: device) }) {
        throw Refusal("'\(path)' and '\(other.name)' share sectors: one lies on the other")
      }
      devices.append(device)
    }
    return devices
  }

  /// The length that every destination has: the one asked for, or the rest that they share.
  private func length(
    of devices: [any BlockDevice], from start: Sector, _ count: Sector?
  ) throws(Refusal) -> Sector {
    var length = count
    for device in devices {
      guard start < device.sectorCount else {
        throw Refusal(
          "--to: sector \(start.rawValue) is behind the end of '\(device.name)',"
            + " which has \(device.sectorCount.rawValue) sectors")
      }
      let rest = device.sectorCount - start
      if let count, count > rest {
        throw Refusal(
          "--count: \(count.rawValue) sectors from \(start.rawValue) on reach behind the end of"
            + " '\(device.name)', which has \(device.sectorCount.rawValue) sectors")
      }
      if count == nil, let length, length != rest {
        throw Refusal("the destinations have different sizes; say how much with --count")
      }
      length = length ?? rest
    }
    return length ?? .zero
  }
}
