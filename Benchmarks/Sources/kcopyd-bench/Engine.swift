import BareLoops
import BlockIO
import Kcopyd

/// The engine in this process: the only file here that knows its interface.
///
/// Both functions return the time that the work itself took. What an application does once – the
/// loop, the client and its reserve of pages, opening the devices – comes before the clock starts,
/// as it does for the bare loops.
enum Engine {
  /// Memory that the `kcopyd copy` command reserves for its client, in bytes.
  static let reserve = 8 << 20

  /// One copy of the first `length` bytes of a file to the same place in all destinations.
  static func copy(
    source: String, destinations: [String], length: Int, direct: Bool
  ) async throws(BenchmarkError) -> Duration? {
    let setup = try Setup(source: source, destinations: destinations, direct: direct)
    let count = Sector(holding: UInt64(length))
    let from = IORegion(setup.source, count: count)
    let to = setup.destinations.map { IORegion($0, count: count) }
    let clock = ContinuousClock()
    let start = clock.now
    let isComplete = try await setup.copy(from: from, to: to)
    let duration = start.duration(to: clock.now)
    await setup.end()
    guard isComplete else { throw .engine("the copy has errors") }
    return duration
  }

  /// `count` copies of 4 KiB, `depth` of them under way at any time: job `index` copies the block
  /// `bare_job_offset(index, count)`, so that the engine visits them in the bare loops' order.
  static func jobs(
    source: String, destination: String, count: Int, depth: Int, direct: Bool
  ) async throws(BenchmarkError) -> Duration? {
    let setup = try Setup(source: source, destinations: [destination], direct: direct)
    let clock = ContinuousClock()
    let start = clock.now
    let failures = await withTaskGroup { group in
      for lane in 0..<depth {
        // Page-cached jobs are done where they are started, so the tasks spread over the cores;
        // with O_DIRECT it is the loop that has the work.
        group.addTask(executorPreference: direct ? setup.loop : nil) {
          var failures = 0
          for index in stride(from: lane, to: count, by: depth) {
            let sector = Sector(bare_job_offset(UInt64(index), UInt64(count)) * 8)
            let isComplete = try? await setup.copy(
              from: IORegion(setup.source, sector: sector, count: 8),
              to: [IORegion(setup.destinations[0], sector: sector, count: 8)])
            if isComplete != true { failures += 1 }
          }
          return failures
        }
      }
      return await group.reduce(0, +)
    }
    let duration = start.duration(to: clock.now)
    await setup.end()
    guard failures == 0 else { throw .engine("\(failures) jobs have errors") }
    return duration
  }
}

/// What is made before the clock starts.
private struct Setup {
  let loop: IOLoop
  let client: KcopydClient
  let source: FileDevice
  let destinations: [FileDevice]

  init(source: String, destinations: [String], direct: Bool) throws(BenchmarkError) {
    let choice: DirectChoice = direct ? .on : .off
    do {
      let loop = try IOLoop.start()
      self.loop = loop
      client = try KcopydClient(subJob: KcopydClient.maximumSubJob, on: loop)
      self.source = try FileDevice.open(
        source, .init(isWritable: false, direct: choice), on: loop)
      self.destinations = try destinations.map {
        try FileDevice.open($0, .init(isWritable: true, direct: choice), on: loop)
      }
    } catch {
      throw .engine("\(error)")
    }
  }

  func copy(from: IORegion, to: [IORegion]) async throws(BenchmarkError) -> Bool {
    do throws(KcopydError) {
      return try await client.copy(from: from, to: to).isComplete
    } catch {
      throw .engine(error.description)
    }
  }

  func end() async {
    await client.destroy()
    loop.stop()
  }
}

extension Engine {
  static func entrant(for benchmark: Case) -> Entrant {
    Entrant(name: "kcopyd library", kind: .library) { files throws(BenchmarkError) in
      let duration: Duration?
      let isDirect = benchmark.place.isDirect
      switch benchmark.work {
      case .copy:
        duration = try await copy(
          source: files.source, destinations: files.inPlaceDestinations,
          length: benchmark.length, direct: isDirect)
      case .jobs(let depth):
        duration = try await jobs(
          source: files.source, destination: files.inPlaceDestinations[0],
          count: benchmark.length / Work.jobSize, depth: depth, direct: isDirect)
      }
      return duration.map { Entrant.Sample(seconds: $0 / .seconds(1)) }
    }
  }
}
