import BlockIO
import Foundation
import Kcopyd
import Mirrors

/// A mirror of two legs against its slower leg, and its recovery against a plain copy.
struct MirrorBench {
  /// Where the legs lie; the log lies with the second one.
  let places: [Place]
  let size: Sector
  let loop: IOLoop

  private static let region = Sector(4096)

  private struct Timings {
    var values: [String: [Double]] = [:]

    mutating func add(_ name: String, _ value: Double) { values[name, default: []].append(value) }
    func typical(_ name: String) -> Double { middle(of: values[name] ?? []) }
  }

  func run(rounds: Int) async throws -> String {
    let scratches = try places.map { try Scratch(in: $0.folder) }
    let legs = try zip(scratches, places).enumerated().map { index, at in
      try at.1.device("leg\(index)", size, in: at.0, loop)
    }
    let log = try places[1].device("log", 2048, in: scratches[1], loop)
    let client = try KcopydClient(subJob: KcopydClient.maximumSubJob, on: loop)
    var timings = Timings()
    for round in 0...rounds {
      let copy = try await seconds {
        _ = try await client.copy(
          from: IORegion(legs[0], count: size), to: [IORegion(legs[1], count: size)])
        try await legs[1].flush()
      }
      let mirror = try mirror(legs, log, .sync)
      let resync = try await seconds {
        try await mirror.resume()
        await mirror.waitForRecovery()
      }
      let bareWrites = [try await hotWrites(legs[0]), try await hotWrites(legs[1])]
      let byHand = try await hotWrites(legs)
      // The first write to a region waits for the log; hot is what comes after it.
      _ = try await hotWrites(mirror)
      let mirrorWrites = try await hotWrites(mirror)
      let bareReads = [try await reads(legs[0]), try await reads(legs[1])]
      let mirrorReads = try await reads(mirror)
      await mirror.suspend()
      guard round > 0 else { continue }
      timings.add("copy", copy)
      timings.add("resync", resync)
      timings.add("bare writes", bareWrites.max() ?? .nan)
      timings.add("writes by hand", byHand)
      timings.add("writes", mirrorWrites)
      timings.add("bare reads", bareReads.min() ?? .nan)
      timings.add("first leg's reads", bareReads[0])
      timings.add("reads", mirrorReads)
    }
    let name =
      places[0].name == places[1].name ? places[0].name : "\(places[0].name) + \(places[1].name)"
    return """
      \(name)
        recovery of \(size.bytes >> 20) MiB  speed \(ratio(timings, "copy", "resync")) of a plain copy, flushed
        hot writes           speed \(ratio(timings, "bare writes", "writes")) of the slower bare leg, \
      \(ratio(timings, "writes by hand", "writes")) of writing both at once by hand
        reads of 64 KiB      speed \(ratio(timings, "bare reads", "reads")) of the faster bare leg, \
      \(ratio(timings, "first leg's reads", "reads")) of the first one

      """
  }

  private func ratio(_ timings: Timings, _ bare: String, _ mine: String) -> String {
    String(format: "%.2f", timings.typical(bare) / timings.typical(mine))
  }

  private func mirror(
    _ legs: [any BlockDevice], _ log: any BlockDevice, _ sync: MirrorParameters.SyncPolicy
  ) throws -> MirrorDevice {
    guard let size = RegionSize(Self.region) else { preconditionFailure() }
    var parameters = MirrorParameters(regionSize: size)
    parameters.sync = sync
    return try MirrorDevice(
      legs: legs.map { MirrorLeg($0) }, log: log, parameters: parameters, on: loop)
  }

  /// 4 KiB to a working set of 16 regions, eight at a time.
  private func hotWrites(_ device: any BlockDevice) async throws -> Double {
    try await inLanes(8, of: 8192, pieces: 8) { number, buffer in
      try await device.write(Self.hotPlace(number), from: buffer)
    }
  }

  /// The same to two devices at once, with no mirror: the limit of what one could be.
  private func hotWrites(_ legs: [any BlockDevice]) async throws -> Double {
    try await inLanes(8, of: 8192, pieces: 8) { number, buffer in
      try await withThrowingTaskGroup { group in
        group.addTask(executorPreference: loop) {
          try await legs[0].write(Self.hotPlace(number), from: buffer)
        }
        try await legs[1].write(Self.hotPlace(number), from: buffer)
        try await group.waitForAll()
      }
    }
  }

  private static func hotPlace(_ number: UInt64) -> Range<Sector> {
    let first = Sector(number &* 7919 % (16 * region.rawValue / 8) * 8)
    return first..<first + 8
  }

  /// 64 KiB all over the device, 16 at a time.
  private func reads(_ device: any BlockDevice) async throws -> Double {
    try await inLanes(16, of: 2048, pieces: 128) { number, buffer in
      let place = Sector(number &* 7919 % (size.rawValue / 128) * 128)
      try await device.read(place..<place + 128, into: buffer)
    }
  }

  private func inLanes(
    _ lanes: Int, of count: Int, pieces: Sector,
    _ body: @escaping @Sendable (UInt64, IOBuffer) async throws -> Void
  ) async throws -> Double {
    let pages = try PagePool.lend(holding: pieces * UInt64(lanes))
    let buffer = pages.buffer
    return try await seconds {
      try await withThrowingTaskGroup { group in
        for lane in 0..<lanes {
          let part = buffer.slice(pieces * UInt64(lane), pieces)
          group.addTask(executorPreference: loop) {
            for number in stride(from: lane, to: count, by: lanes) {
              try await body(UInt64(number), part)
            }
          }
        }
        try await group.waitForAll()
      }
    }
  }

  private func seconds(_ body: () async throws -> Void) async throws -> Double {
    let clock = ContinuousClock()
    let start = clock.now
    try await body()
    let elapsed = start.duration(to: clock.now).components
    return Double(elapsed.seconds) + Double(elapsed.attoseconds) / 1e18
  }
}
