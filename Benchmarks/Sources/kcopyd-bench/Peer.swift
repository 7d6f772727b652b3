/// A program that copies files: how it is called for each case.
struct Peer: Sendable {
  var name: String
  var program: String
  var kind = Entrant.Kind.peer
  var replacesDestinations = false
  var canDo: @Sendable (Case) -> Bool
  /// The argument lists of the processes that do the work together, without the program.
  var arguments: @Sendable (CaseFiles, _ destinations: [String]) -> [[String]]

  static let all = [dd, ddParallel, cp, cpParallel, qemuImg, qemuImgInOrder, nbdcopy, dcfldd]

  private static let dd = Peer(
    name: "dd", program: "dd", canDo: { $0.destinationCount == 1 }, arguments: ddArguments)

  private static let ddParallel = Peer(
    name: "dd, in parallel", program: "dd", canDo: { $0.destinationCount > 1 },
    arguments: ddArguments)

  private static let cp = Peer(
    name: "cp", program: "cp", replacesDestinations: true,
    canDo: { !$0.place.isDirect && $0.destinationCount == 1 }, arguments: cpArguments)

  private static let cpParallel = Peer(
    name: "cp, in parallel", program: "cp", replacesDestinations: true,
    canDo: { !$0.place.isDirect && $0.destinationCount > 1 }, arguments: cpArguments)

  private static let qemuImg = Peer(
    name: "qemu-img -W", program: "qemu-img", canDo: { _ in true },
    arguments: { qemuArguments($0, $1, outOfOrder: true) })

  private static let qemuImgInOrder = Peer(
    name: "qemu-img", program: "qemu-img", canDo: { _ in true },
    arguments: { qemuArguments($0, $1, outOfOrder: false) })

  /// It copies between local files too, with a thread per processor and its own defaults.
  private static let nbdcopy = Peer(
    name: "nbdcopy", program: "nbdcopy", replacesDestinations: true,
    canDo: { !$0.place.isDirect },
    arguments: { files, destinations in destinations.map { [files.source, $0] } })

  /// It knows several outputs, but nothing of `O_DIRECT`.
  private static let dcfldd = Peer(
    name: "dcfldd", program: "dcfldd", canDo: { !$0.place.isDirect },
    arguments: { files, destinations in
      [
        ["if=\(files.source)"] + destinations.map { "of=\($0)" }
          + ["bs=1M", "conv=notrunc", "status=off"]
      ]
    })

  /// Not a peer: the command whose engine is measured.
  static let kcopyd = Peer(
    name: "kcopyd copy", program: "kcopyd", kind: .command, canDo: { _ in true },
    arguments: { files, destinations in
      let direct = files.benchmark.place.isDirect ? "on" : "off"
      return [
        ["copy", "--no-sync", "--quiet", "--direct", direct, files.source] + destinations
      ]
    })

  func entrant(at path: String) -> Entrant {
    let name = name
    let arguments = arguments
    var entrant = Entrant(name: name, kind: kind) { _ in nil }
    entrant.replacesDestinations = replacesDestinations
    let destinationsOf = entrant
    entrant.run = { files throws(BenchmarkError) in
      let lists = arguments(files, files.destinations(of: destinationsOf))
      let processes = Processes(name: name, commands: lists.map { [path] + $0 })
      return try processes.run(in: files.folder)
    }
    return entrant
  }

  @Sendable private static func ddArguments(
    _ files: CaseFiles, _ destinations: [String]
  ) -> [[String]] {
    let flags = files.benchmark.place.isDirect ? ["iflag=direct", "oflag=direct"] : []
    return destinations.map { destination in
      ["if=\(files.source)", "of=\(destination)", "bs=1M", "conv=notrunc", "status=none"] + flags
    }
  }

  /// Without reflinks: sharing blocks is not copying them.
  @Sendable private static func cpArguments(
    _ files: CaseFiles, _ destinations: [String]
  ) -> [[String]] {
    destinations.map { ["--reflink=never", files.source, $0] }
  }

  private static func qemuArguments(
    _ files: CaseFiles, _ destinations: [String], outOfOrder: Bool
  ) -> [[String]] {
    // "unsafe" is the page cache without a flush at the end, which nobody here pays for.
    let cache = files.benchmark.place.isDirect ? "none" : "unsafe"
    let order = outOfOrder ? ["-W"] : []
    return destinations.map { destination in
      ["convert", "-n", "-f", "raw", "-O", "raw", "-m", "8", "-t", cache, "-T", cache] + order
        + [files.source, destination]
    }
  }
}
