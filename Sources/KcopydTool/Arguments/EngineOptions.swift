import ArgumentParser
import BlockIO
import Kcopyd
import Logging
import NBD

/// The options of the engine, the same for every command that moves data.
struct EngineOptions: ParsableArguments {
  @Option(help: "Reserve of pages of 4096 bytes. (default: as many as keep all sub-jobs going)")
  var pages: Int?

  @Option(
    help: """
      Size of a piece that is read and written as one, up to 1MiB. (default: 1MiB, or 256KiB with \
      NBD exports)
      """)
  var subJobSize: String?

  @Option(help: "Part of the time in which I/O may be under way, in percent.")
  var throttle: Int = 100

  @Option(help: "Most bytes per second to read (or zero), such as 100MiB. (default: no limit)")
  var rate: String?

  @Option(
    help: "Bypass the page cache: auto (disks, large files not in it), when-possible, on, off.")
  var direct: DirectChoice = .auto

  @Option(help: "How I/O is done: auto, uring, threads.")
  var backend: BackendChoice = .auto

  @Flag(help: "Print the result as JSON.")
  var json = false

  @Flag(name: .shortAndLong, help: "No progress, no summary; errors only.")
  var quiet = false

  /// What comes through a socket is best passed on while it is in the processor's cache.
  private static let networkSubJob = Sector(holding: 256 << 10)

  /// The loop and the client that the options ask for.
  ///
  /// - Parameters:
  ///   - sources: what is to be read, devices or URIs.
  ///   - destinations: what is to be written.
  func makeEngine(
    from sources: [String] = [], to destinations: [String] = []
  ) async throws(Refusal) -> Engine {
    let subJob = try subJobSize.map { text throws(Refusal) in
      try Sector(text, option: "--sub-job-size")
    }
    if let subJob, subJob == .zero || subJob > KcopydClient.maximumSubJob {
      throw Refusal("--sub-job-size: must be 1 sector to 1MiB")
    }
    if let pages, pages <= 0 || pages > 1 << 24 {
      throw Refusal("--pages: must be 1 to \(1 << 24)")
    }
    guard (0...100).contains(throttle) else { throw Refusal("--throttle: must be 0 to 100") }
    let rate = try rate.map { text throws(Refusal) in
      try Size.bytes(
        text.hasSuffix("/s") ? String(text.dropLast(2)) : text, plain: 1,
        option: "--rate")
    }
    if rate == 0 { throw Refusal("--rate: must be more than 0") }
    // Without a limit none is made: whoever has one must ask it for every piece.
    let limit =
      throttle < 100 || rate != nil ? Throttle(percent: throttle, bytesPerSecond: rate) : nil
    let reads = sources.contains(where: NBDURI.isMeant)
    let writes = destinations.contains(where: NBDURI.isMeant)
    // From network to network every piece would be handed over four times. Where there is a file,
    // it waits for the disk's threads anyhow, and the network is better off on its own.
    let network = reads && writes ? try await startNetworkLoop(backend) : nil
    let loop = if let network { network.ioLoop } else { try startLoop(backend) }
    do throws(KcopydError) {
      let usual = reads || writes ? Self.networkSubJob : KcopydClient.maximumSubJob
      let client = try KcopydClient(
        pages: pages, subJob: subJob ?? usual, throttle: limit, on: loop)
      return Engine(loop: loop, client: client, network: network)
    } catch {
      if case .noMemory = error { throw Refusal("\(error); lower --pages") }
      throw Refusal("\(error); raise --pages or lower --sub-job-size")
    }
  }
}

/// The options of commands that write.
struct WritingOptions: ParsableArguments {
  @OptionGroup var engine: EngineOptions

  @Flag(help: "Go on after errors; sectors that can't be read are written as zeros.")
  var ignoreErrors = false

  @Flag(help: "Say how it is going to be done, and why.")
  var explain = false

  @Flag(name: .customLong("no-sync"), help: "Don't wait until everything is durable.")
  var noSync = false

  @Flag(help: "Also use block devices that are mounted or held by another program.")
  var force = false

  var copyOptions: CopyOptions {
    ignoreErrors ? .ignoreErrors : .dropFailedDestinations
  }
}

/// What a command works with.
struct Engine {
  let loop: IOLoop
  let client: KcopydClient
  /// Whose I/O loop it is, if exports that are written are to live there, too.
  let network: NetworkLoop?
}

private func startNetworkLoop(_ backend: BackendChoice) async throws(Refusal) -> NetworkLoop {
  do throws(IOFailure) {
    return try await NetworkLoop.start(backend: backend, logger: Output.logger)
  } catch {
    throw Refusal(error.description)
  }
}

extension DirectChoice: ExpressibleByArgument {}
extension BackendChoice: ExpressibleByArgument {}
